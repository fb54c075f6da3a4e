"""`delrec-lite doctor`: what is installed, what is missing, and the command that fixes it."""

from delrec_lite.cli.common import JsonFlag, QuietFlag, make_console

EXAMPLE = "Example: `delrec-lite doctor --json`"


def doctor(json_output: JsonFlag = False, quiet: QuietFlag = False) -> None:
    """Check packages, CPU, memory and cache; imports, fetches and changes nothing."""
    from delrec_lite.doctor import examine

    console = make_console(json_output, quiet)
    report = examine()
    rows = [(c.name, c.state, c.value, c.purpose) for c in report.checks]
    console.result(report.dump(), rows, ("what", "state", "value", "for"))
    # Outside the table, so that commands to be copied are not wrapped.
    for check in report.checks:
        if check.fix:
            console.say(f"{check.name}: {check.fix}")
    if not any(check.fix for check in report.checks):
        console.say("nothing is missing")
