"""Tests that measure, on a machine that did not run: what failed meanwhile is run again, and that is said."""

from __future__ import annotations

import pytest
from _pytest.runner import runtestprotocol

from testbed.withheld import MUCH, Withheld

ATTEMPTS = 3
HOPELESS = 0.03  # of a processor's time, in every attempt: no network here is as declared, whatever the code does


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Of tests that networks must be as declared for. Where no hypervisor withheld processors a failure counts at once.

    Never of tests that compare the machine before and after: a second attempt would find what the first one left.
    What fails in two attempts from both of which very much was withheld is skipped, with that reason.
    """
    if item.get_closest_marker("measures") is None:
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    shares = list[float]()
    for attempt in range(1, ATTEMPTS + 1):
        withheld = Withheld()
        reports = runtestprotocol(item, log=False, nextitem=nextitem)
        shares.append(share := withheld.share())
        if len(shares) > 1 and min(shares) >= HOPELESS:
            _skip(item, reports, shares)
            break
        if attempt == ATTEMPTS or share < MUCH or not any(report.failed for report in reports):
            break
        _say(item, f"{item.nodeid} failed while the hypervisor withheld {share:.0%} of a processor's time: once more")
        for report in filter(lambda report: report.failed, reports):
            _say(item, str(getattr(report.longrepr, "reprcrash", report.longrepr)))
        try:
            item.session._setupstate.teardown_exact(None)  # what its module set up may be why
        except Exception as error:
            _say(item, f"what its module set up cannot be taken down, so this is its last attempt: {error!r}")
            break
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _skip(item: pytest.Item, reports: list[pytest.TestReport], shares: list[float]) -> None:
    """Those that failed."""
    why = (
        f"failed while the hypervisor withheld {' and '.join(f'{share:.0%}' for share in shares)} of a processor's time"
    )
    path, line, _ = item.location
    for report in reports:
        if report.failed:
            report.outcome, report.longrepr = "skipped", (path, (line or 0) + 1, why)


def _say(item: pytest.Item, line: str) -> None:
    reporter = item.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(line)
