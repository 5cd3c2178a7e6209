"""What is written into the cluster's folder before anything starts: the configuration of every daemon."""

import os
import pwd
import shlex
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.processes import draw_ports

CLUSTER_NAME = "jetmae"
CPUS_PER_NODE = 2
GPUS_PER_NODE = 2
MEMORY_PER_NODE_MIB = 8192
SYSTEM_TABLES = ("mysql_system_tables.sql", "mysql_system_tables_data.sql")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Names, addresses and places of one cluster.

    As root every node is a machine with its own host name, at 127.0.0.1. An ordinary user's nodes share this host's
    name, so there a node is called by its address and the name works wherever a host name is wanted.
    """

    folder: Path
    has_own_machines: bool
    addresses: dict[str, str]  # node name -> address
    ports: dict[str, int]  # daemon or node name -> port
    preempt_send_user_signal: bool

    @property
    def munge_socket(self) -> Path:
        return self.folder / "munge.sock"

    @property
    def database_socket(self) -> Path:
        return self.folder / "my.sock"

    @property
    def log_folder(self) -> Path:
        return self.folder / "log"

    @property
    def hosts_file(self) -> Path:
        return self.folder / "hosts"

    @property
    def output_folder(self) -> Path:
        return self.folder / "output"


def lay_out(folder: Path, num_nodes: int, *, preempt_send_user_signal: bool) -> Layout:
    has_own_machines = os.geteuid() == 0
    if has_own_machines:
        addresses = {f"node{index}": "127.0.0.1" for index in range(1, num_nodes + 1)}
    else:
        # NoInAddrAny makes slurmd listen on what this host's name means, which may also be 127.0.1.1.
        address = socket.gethostbyname(_host())
        addresses = {f"127.0.0.{index}": address for index in range(2, num_nodes + 2)}
    names = ("slurmctld", "slurmdbd", *addresses)
    return Layout(
        folder=folder,
        has_own_machines=has_own_machines,
        addresses=addresses,
        ports=dict(zip(names, draw_ports(len(names)), strict=True)),
        preempt_send_user_signal=preempt_send_user_signal,
    )


def write_configuration(layout: Layout) -> None:
    for name in ("log", "state", "database", "spool", "output", "gpus"):
        (layout.folder / name).mkdir()
    _make_gpus(layout)
    for node in layout.addresses:
        (layout.folder / "spool" / node).mkdir()
    _write(layout, "munge.key", os.urandom(1024), mode=0o400)
    _write(layout, "slurm.conf", slurm_conf(layout))
    _write(layout, "slurmdbd.conf", slurmdbd_conf(layout), mode=0o600)
    _write(layout, "gres.conf", f"Name=gpu Flags=nvidia_gpu_env File={layout.folder}/gpus/[0-{GPUS_PER_NODE - 1}]\n")
    # slurmd reads this even though nothing here uses control groups, and ends where it cannot find the default kind.
    _write(layout, "cgroup.conf", "CgroupPlugin=cgroup/v1\n")
    _write(layout, "hosts", "".join(f"127.0.0.1 {name}\n" for name in ("localhost", _host(), *layout.addresses)))


def slurm_conf(layout: Layout) -> str:
    """The controller's and the nodes' configuration; where a value matters, the comment says what depends on it."""
    return f"""\
ClusterName={CLUSTER_NAME}
SlurmctldHost={_host()}(127.0.0.1)
SlurmctldPort={layout.ports["slurmctld"]}
SlurmUser={_user()}
SlurmdUser={_user()}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
# A requeued job waits cred_expire before it starts again: 120 s unless told; less than 5 means 120.
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={layout.munge_socket},cred_expire=5
StateSaveLocation={layout.folder}/state
SlurmdSpoolDir={layout.folder}/spool/%n
SlurmctldPidFile={layout.folder}/slurmctld.pid
SlurmdPidFile={layout.folder}/spool/%n/slurmd.pid
SlurmctldLogFile={layout.log_folder}/slurmctld.log
SlurmdLogFile={layout.log_folder}/%n.log
MpiDefault=none
MailProg=/bin/true
# Real clusters use control groups; linuxproc also finds grandchildren, which pgid does not.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
PropagateResourceLimits=NONE
# Without accounting sacct fails, and submitit never sees that a crashed job has ended.
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={layout.ports["slurmdbd"]}
AccountingStoragePass={layout.munge_socket}
AccountingStorageTRES=gres/gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Without a default a job takes the whole memory of a node.
DefMemPerCPU=100
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{_user_signal_line(layout)}KillWait=3
SlurmdTimeout=5
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
{_node_lines(layout)}
PartitionName=DEFAULT Nodes=ALL State=UP MaxTime=UNLIMITED DefaultTime=30
PartitionName=low Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=8
PartitionName=abrupt PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=high PriorityTier=10 PreemptMode=OFF
"""


def slurmdbd_conf(layout: Layout) -> str:
    return f"""\
AuthType=auth/munge
AuthInfo=socket={layout.munge_socket}
DbdHost={_host()}
DbdAddr=127.0.0.1
DbdPort={layout.ports["slurmdbd"]}
SlurmUser={_user()}
LogFile={layout.log_folder}/slurmdbd.log
PidFile={layout.folder}/slurmdbd.pid
CommitDelay=1
CommunicationParameters=NoInAddrAny
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StorageLoc=accounting
"""


def munge_command(layout: Layout) -> list[str]:
    files = {"key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed", "log-file": "log/munge.log"}
    options = [f"--{option}={layout.folder}/{name}" for option, name in files.items()]
    # --force: the folder lies below one that everybody may write, which munged refuses otherwise.
    return ["munged", "--foreground", "--force", f"--socket={layout.munge_socket}", *options]


def bootstrap_sql() -> str:
    """What makes an empty folder a database: MariaDB's own tables, and an empty database for the accounting."""
    folder = Path("/usr/share/mysql")
    tables = "\n".join((folder / name).read_text() for name in SYSTEM_TABLES)
    return f"CREATE DATABASE mysql;\nUSE mysql;\n{tables}\nCREATE DATABASE accounting;\n"


def database_command(layout: Layout, *options: str) -> list[str]:
    """MariaDB on a socket of its own; it forgets a power cut's worth of writes, which nobody will ever need."""
    return [
        "mariadbd",
        "--no-defaults",
        f"--user={_user()}",
        f"--datadir={layout.folder}/database",
        f"--socket={layout.database_socket}",
        f"--pid-file={layout.folder}/database.pid",
        "--skip-networking",
        "--skip-grant-tables",
        "--skip-log-bin",
        "--innodb-buffer-pool-size=16M",
        "--innodb-log-file-size=8M",
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-flush-method=nosync",
        "--innodb-doublewrite=0",
        *options,
    ]


def machine_command(layout: Layout, node: str) -> list[str]:
    """One node's slurmd, in its own host name, process tree and host table where this user may make them."""
    slurmd = ["slurmd", "-D", "-N", node]
    if not layout.has_own_machines:
        return whole_tree_command(slurmd)
    hosts = shlex.quote(str(layout.hosts_file))
    # slurmd is not the first process of its namespace: that one has to collect the orphans, and bash does.
    script = f"hostname {node} && mount --bind {hosts} /etc/hosts && {{ {shlex.join(slurmd)} & wait; }}; exit 1"
    return ["unshare", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", script]


def whole_tree_command(command: list[str]) -> list[str]:
    """A command that takes everything below it along when it ends; see machine.py."""
    return [sys.executable, "-S", "-E", str(Path(__file__).with_name("machine.py")), *command]


def _user_signal_line(layout: Layout) -> str:
    """Newer Slurm has another name for it and still takes this one; the other way round Slurm refuses to start."""
    return "SlurmctldParameters=preempt_send_user_signal\n" if layout.preempt_send_user_signal else ""


def _node_lines(layout: Layout) -> str:
    shape = f"CPUs={CPUS_PER_NODE} RealMemory={MEMORY_PER_NODE_MIB} Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN"
    host = "" if layout.has_own_machines else f"NodeHostname={_host()} "
    return "\n".join(
        f"NodeName={node} {host}NodeAddr={address} Port={layout.ports[node]} {shape}"
        for node, address in layout.addresses.items()
    )


def _make_gpus(layout: Layout) -> None:
    """Slurm wants one character device per GPU and never opens it, so any will do."""
    for index in range(GPUS_PER_NODE):
        (layout.folder / "gpus" / str(index)).symlink_to("/dev/null")


def _user() -> str:
    """Of this process; the environment may name another."""
    return pwd.getpwuid(os.geteuid()).pw_name


def _host() -> str:
    """This host's name as Slurm sees it: without the domain."""
    return socket.gethostname().split(".")[0]


def _write(layout: Layout, name: str, content: str | bytes, mode: int = 0o644) -> None:
    path = layout.folder / name
    path.touch(mode=0o600)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
