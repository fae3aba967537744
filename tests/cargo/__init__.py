"""Everything that is written in Rust: unit tests, properties, simulation, fuzz targets in their bounded form."""
