"""What the migrator and its peers do where copiers have gone wrong: one table, scenario by tool.

Runs within `rig exec`, which says where Garage is; `run` beside this file does all of that.
"""

import argparse
import concurrent.futures
import datetime
import os
import platform
import shutil
import sys
import traceback

import scenarios
import tools
from desk import Desk, server_of_the_rig


def arguments():
    parser = argparse.ArgumentParser(prog="tests/compare/behaviour/run", description=__doc__.split("\n")[0])
    everybody = "comma-separated: migrator, rclone, s5cmd, aws [default: all that are installed]"
    parser.add_argument("--tools", default="all", help=everybody)
    parser.add_argument("--only", default="", help="comma-separated names of scenarios [default: all]")
    parser.add_argument("--list", action="store_true", help="list the scenarios and end")
    parser.add_argument("--migrator", default="migrator", help="the migrator's program")
    parser.add_argument("--jobs", type=int, default=4, help="scenarios at a time [default: 4]")
    parser.add_argument("--many", type=int, default=20_000, help="files of the scenario `memory` [default: 20000]")
    parser.add_argument("--results", help="write the table into this file")
    return parser.parse_args()


def chosen(options):
    """The tools that take part: the migrator must be there, a peer may be missing."""
    wanted = None if options.tools == "all" else options.tools.split(",")
    found = []
    for tool in tools.ALL:
        if wanted is not None and tool.name not in wanted:
            continue
        program = shutil.which(options.migrator if tool.name == "migrator" else tool.name)
        if program:
            found.append(tool(os.path.abspath(program)))
        elif wanted is not None or tool.name == "migrator":
            sys.exit(f"there is no {tool.name}")
        else:
            print(f"SKIP {tool.name} is not installed", file=sys.stderr)
    return found


def attempt(scenario, tool, options):
    """One cell: the best of the sets of flags counts, and all are told."""
    told = []
    for flags in scenario.variants(tool.name):
        try:
            with Desk(server_of_the_rig(scenario.server), tool) as desk:
                desk.many = options.many
                right, words = scenario.act(desk, flags)
        except Exception:  # The table is to be whole; the cell fails.
            traceback.print_exc()
            right, words = False, "could not be tried"
        told.append((right, words, " ".join(flags)))
        verdict = "pass" if right else "FAIL"
        print(f"{verdict}  {scenario.name}  {tool.name} {' '.join(flags)}: {words}", file=sys.stderr, flush=True)
    return told


def passed(told):
    return any(right for right, _, _ in told)


def cell(told):
    verdict = "pass" if passed(told) else "**fail**"
    words = [f"{words} (`{flags}`)" if flags else words for _, words, flags in told]
    return f"{verdict}: " + "; ".join(words)


def table(rows, found):
    head = ["scenario", *(tool.name for tool in found)]
    lines = [head, ["---"] * len(head)]
    lines += [[scenario.title, *(cell(told) for told in cells)] for scenario, cells in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def document(rows, found, command):
    counts = ", ".join(
        f"{tool.name} {sum(passed(cells[at]) for _, cells in rows)} of {len(rows)}" for at, tool in enumerate(found)
    )
    today = datetime.datetime.now(datetime.timezone.utc).date()
    versions = "\n".join(f"- {tool.name}: {tool.version()}" for tool in found)
    passes = "\n".join(f"- *{scenario.title}*: {scenario.passes}" for scenario, _ in rows)
    return f"""# Where copiers have gone wrong: the migrator and its peers

Written by `{command}` on {today}, {platform.system()} {platform.machine()}, against Garage, which forgets
what a run left open once the object is published. Passed: {counts}.

{versions}

{table(rows, found)}

Each tool runs as its documentation has it for the case: where it has flags for it, each set of them is tried beside the
tool as it comes (`in brackets`), and the best counts. Files in parts are sent in parts of 5 MiB, one at a time, so that it
is known what has been sent when something happens. Root gives up its right to read what a mode forbids. `scenarios.py` has
every step; objects are judged by boto3.

What is expected:

{passes}
"""


def main():
    options = arguments()
    wanted = options.only.split(",") if options.only else [scenario.name for scenario in scenarios.ALL]
    unknown = set(wanted) - {scenario.name for scenario in scenarios.ALL}
    if unknown:
        sys.exit(f"there is no scenario {', '.join(sorted(unknown))}")
    if options.list:
        for scenario in scenarios.ALL:
            print(f"{scenario.name}: {scenario.title}")
        return
    found = chosen(options)
    rows = [(scenario, [None] * len(found)) for scenario in scenarios.ALL if scenario.name in wanted]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for scenario, cells in rows:
            for at, tool in enumerate(found):
                cells[at] = pool.submit(attempt, scenario, tool, options)
    rows = [(scenario, [cell.result() for cell in cells]) for scenario, cells in rows]
    text = document(rows, found, os.environ.get("BEHAVIOUR_COMMAND", "tests/compare/behaviour/run"))
    print(text)
    if options.results:
        with open(options.results, "w", encoding="utf-8") as file:
            file.write(text)
    at = [tool.name for tool in found].index("migrator") if "migrator" in (tool.name for tool in found) else None
    ours = [scenario.name for scenario, cells in rows if at is not None and not passed(cells[at])]
    if ours:
        sys.exit(f"the migrator failed: {', '.join(ours)}")


if __name__ == "__main__":
    main()
