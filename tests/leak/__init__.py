"""Whatever a program tries: nothing leaves the machine but through the node."""
