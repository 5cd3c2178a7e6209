"""A process that is gone is told from one that is there, and machines from each other."""

import os
import subprocess
import sys

import pytest

from jetmae.process_identity import is_running, this_machine

PRINT_MACHINE = "from jetmae.process_identity import this_machine; print(this_machine())"


def test_a_process_is_running_until_it_has_ended():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_running(process.pid)
    process.communicate(b"\n")
    assert not is_running(process.pid)
    assert is_running(os.getpid())


def test_a_process_of_another_user_is_running(monkeypatch):
    def not_permitted(pid, number):
        raise PermissionError

    monkeypatch.setattr(os, "kill", not_permitted)
    assert is_running(1)


def test_processes_of_one_machine_name_it_alike():
    other = subprocess.run([sys.executable, "-c", PRINT_MACHINE], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == this_machine()


def test_a_container_is_another_machine():
    inside = ["unshare", "--user", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*inside, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets no one make a PID namespace")
    other = subprocess.run([*inside, sys.executable, "-c", PRINT_MACHINE], capture_output=True, text=True, check=True)
    assert other.stdout.strip() != this_machine()
    assert other.stdout.split()[0] == this_machine().split()[0]
