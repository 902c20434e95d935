"""Averages reports of one comparison over seeds: python3 recipes/study/seeds.py REPORT.json... [--metric accuracy]

Prints, for each method and n, the mean of a metric and the standard deviation between the reports.
"""

import argparse
import json
import statistics

arguments = argparse.ArgumentParser(description=__doc__)
arguments.add_argument("reports", nargs="+")
arguments.add_argument("--metric", default="accuracy")
arguments = arguments.parse_args()

values = {}
for path in arguments.reports:
    with open(path, encoding="utf-8") as file:
        report = json.load(file)
    for row in report["rows"]:
        params = ", ".join(f"{name}={value}" for name, value in sorted(row["params"].items()))
        mean = row["metrics"].get(arguments.metric, {}).get("mean")
        if mean is not None:
            values.setdefault((row["policy"], row["method"], params, row["n"]), []).append(mean)

print(f"| policy | method | n | {arguments.metric} | reports |\n|---|---|---|---|---|")
for (policy, method, params, n), found in values.items():
    spread = f" ±{statistics.stdev(found):.3f}" if len(found) > 1 else ""
    label = f"{method} ({params})" if params else method
    print(f"| {policy} | {label} | {n} | {statistics.mean(found):.3f}{spread} | {len(found)} |")
