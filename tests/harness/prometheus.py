"""Reads Prometheus' text format, version 0.0.4, and takes nothing that its description does not allow."""

import math
import re

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (NaN|[+-]Inf|[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)")
KINDS = {"counter", "gauge", "summary", "histogram", "untyped"}


class Metrics:
    """`values` by name and labels, `kinds` by family."""

    def __init__(self, text):
        assert text.endswith("\n"), "the last line must end"
        self.values, self.kinds, self.labels = {}, {}, set()
        family, helped = None, None
        for line in text.splitlines():
            if line.startswith("# HELP "):
                helped = re.fullmatch(rf"# HELP ({NAME}) \S.*", line).group(1)
                assert helped not in self.kinds, f"{helped} comes twice"
            elif line.startswith("# TYPE "):
                family, kind = re.fullmatch(rf"# TYPE ({NAME}) (\w+)", line).groups()
                assert family == helped and family not in self.kinds and kind in KINDS, line
                assert family.endswith("_total") == (kind == "counter"), line
                self.kinds[family] = kind
            else:
                self.sample(line, family)

    def sample(self, line, family):
        found = SAMPLE.fullmatch(line)
        assert found, f"not a sample: {line!r}"
        name, labels, value = found.group(1), found.group(2) or "", float(found.group(found.lastindex))
        endings = ("", "_sum", "_count") if self.kinds[family] == "summary" else ("",)
        assert name in [family + ending for ending in endings], f"{name} among {family}"
        assert (name, labels) not in self.values, f"{line!r} comes twice"
        self.values[name, labels] = value
        self.labels.update(re.findall(LABEL, labels))
        if self.kinds[family] == "counter":
            assert value >= 0 and not math.isnan(value), line

    def __getitem__(self, name):
        """By name, or by name and labels as they are written: `name{label="word"}`."""
        name, _, labels = name.partition("{")
        return self.values[name, labels.removesuffix("}")]

    def counters(self):
        return {key: value for key, value in self.values.items() if self.kinds.get(key[0]) == "counter"}
