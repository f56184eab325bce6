"""What every benchmark of the project writes: environment, samples, and `reach`."""

import json
import os
import platform
import statistics


def environment():
    with open("/proc/meminfo") as info:
        memory_kib = int(info.readline().split()[1])
    return {"kernel": platform.release(), "processors": os.cpu_count(), "memory_mib": memory_kib >> 10,
            "load_before": os.getloadavg()[0]}


class Report:
    def __init__(self):
        self.data = {"environment": environment(), "cases": []}
        self.cells = []

    def case(self, name, samples, **more):
        """`samples`: figure -> list of values."""
        medians = {figure: round(statistics.median(values), 3) for figure, values in samples.items() if values}
        self.data["cases"].append({"case": name, "medians": medians, "samples": samples, **more})
        print(f"{name}: " + ", ".join(f"{figure} {value:g}" for figure, value in medians.items()), flush=True)
        return medians

    def reach(self, case, figure, value, unit, bar, holds):
        self.cells.append({"case": case, "figure": figure, "value": value, "unit": unit, "bar": bar,
                           "holds": bool(holds) if value is not None else False})

    def write(self, path):
        print()
        for cell in self.cells:
            value = "not measured" if cell["value"] is None else f"{cell['value']:.1f}"
            print(f"{'holds' if cell['holds'] else 'FAILS'}  {cell['case']}: {cell['figure']} {value} "
                  f"{cell['unit']} ({cell['bar']})")
        self.data["reach"] = self.cells
        if path:
            with open(path, "w") as file:
                json.dump(self.data, file, indent=1)
