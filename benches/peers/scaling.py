"""How the seconds of a generation grow with rows and with new tokens: a table, and a plot where --svg names a file.

    python benches/peers/scaling.py MODEL [--rows 1 2 ... 512] [--tokens 64 128 ... 4096] [--svg FILE]

Rows: 32 new tokens behind prompts of 16. Tokens: 4 rows behind prompts of 16. Needs cargo, and matplotlib for the plot.
"""

import argparse
import itertools

from peers import Plumb


def slopes(points):
    """What one more row (or token) costs, in milliseconds, from each point to the next."""
    return [1e3 * (t - s) / (b - a) for (a, s), (b, t) in itertools.pairwise(points)]


def table(name, points):
    print(f"{name:>8} {'seconds':>9} {'ms for one more':>16}")
    for (count, seconds), slope in zip(points, [None, *slopes(points)]):
        print(f"{count:8} {seconds:9.2f} {'' if slope is None else f'{slope:16.2f}'}", flush=True)


def plot(path, series):
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(series), figsize=(9, 3.4))
    for axis, (name, points) in zip(axes, series):
        axis.plot(*zip(*points), marker="o", color="#1f5fa8")
        axis.set(xlabel=name, ylabel="seconds", xlim=0, ylim=0)
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16, 32, 64, 128, 256, 512])
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 256, 512, 1024, 2048, 4096])
    parser.add_argument("--svg")
    arguments = parser.parse_args()
    plumb = Plumb(arguments.model, arguments.threads)
    plumb.run(("generate", 8, 16, 8))
    rows = [(count, plumb.run(("generate", count, 16, 32))) for count in arguments.rows]
    table("rows", rows)
    tokens = [(count, plumb.run(("generate", 4, 16, count))) for count in arguments.tokens]
    table("tokens", tokens)
    if arguments.svg:
        plot(arguments.svg, [("rows", rows), ("new tokens of each of 4 rows", tokens)])


if __name__ == "__main__":
    main()
