"""One cluster for all tests, and a guard that none leaves a job, a process or a machine without power to the next."""

from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.cluster.processes import ClusterError, wait_until
from tests.cluster.slurm_cluster import SlurmCluster

SETTLE_TIMEOUT_S = 10  # the end of a job's last processes; KillWait is 3 s


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """Three idle nodes. Tests share it one after the other and leave it as they found it."""
    with SlurmCluster() as running:
        yield running


@pytest.fixture(autouse=True)
def leaves_nothing_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails a test that leaves something in the shared cluster, after it has been cleared for the next one."""
    if "cluster" not in request.fixturenames:
        yield
        return
    cluster = request.getfixturevalue("cluster")
    yield
    if left := clear(cluster):
        pytest.fail(f"this test left behind: {', '.join(left)}; it must cancel its jobs and await their end")


def clear(cluster: SlurmCluster) -> list[str]:
    """Bring the cluster back to idle; returns what stood in the way, in words."""
    left = [f"{node} without power" for node in cluster.nodes_without_power()]
    with suppress(ClusterError):  # jobs that are about to end are none of the test's faults
        wait_until(lambda: not cluster.anything_left(), SETTLE_TIMEOUT_S, "an idle cluster")
    left += cluster.anything_left()
    cluster.cancel_all()
    for node in cluster.nodes_without_power():
        cluster.power_on(node)
    return left


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item):
    """A failed test shows what the daemons and the jobs wrote."""
    report = yield
    cluster = getattr(item, "funcargs", {}).get("cluster")
    if report.failed and cluster is not None:
        report.sections.append(("cluster", cluster.logs()))
    return report
