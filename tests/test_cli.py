"""The command line as a user meets it: one clear message, the right exit code, no traceback."""

import json
import os
import resource
import subprocess
import sys

import pytest

from styleavatar3d.cli import STAGES, split_verb
from styleavatar3d.errors import StyleAvatarError
from styleavatar3d.verbs import VERBS, parse_seeds


def styleavatar3d(*words, **kwargs):
    return subprocess.run([sys.executable, "-m", "styleavatar3d", *words], capture_output=True, text=True, **kwargs)


def fails(result, code, *parts):
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in result.stderr


def seconds_of_children():
    """Processor time of the commands that have ended: the machine may be busy."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def quickest(command, tries=3):
    times = []
    for _ in range(tries):
        start = seconds_of_children()
        subprocess.run(command, check=True, capture_output=True)
        times.append(seconds_of_children() - start)
    return min(times)


def test_import_loads_nothing_heavy():
    script = "import sys, styleavatar3d; print([m for m in ('torch', 'diffusers', 'ray', 'numpy') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"
    assert quickest([sys.executable, "-c", "import styleavatar3d"]) < 0.3


def test_help_is_immediate():
    assert quickest([sys.executable, "-m", "styleavatar3d", "--help"]) < 1


@pytest.mark.parametrize("verb", [*STAGES, *VERBS])
def test_the_help_of_every_verb(verb):
    start = seconds_of_children()
    result = styleavatar3d(*verb.split(), "--help")
    assert seconds_of_children() - start < 4, "2 s on idle cores; beside other work every second is longer"
    assert result.returncode == 0 and "usage" in result.stdout, result.stderr


def test_an_unknown_verb():
    fails(styleavatar3d("genrate"), 2, "there is no such verb", "did you mean 'styleavatar3d generate'?")


def test_an_unknown_option():
    fails(styleavatar3d("generate", "--promt", "a head"), 2, "--prompt")


def test_an_unknown_config_key():
    fails(styleavatar3d("train", "gan", "--train.batchs", "3"), 2, "train.batchs: unknown key", "did you mean 'batch'?")


def test_a_missing_config():
    fails(styleavatar3d("train", "gan", "--config", "gan/nothing"), 2, "there is no such config", "gan/miniature")


def test_json_errors_are_machine_readable():
    result = styleavatar3d("genrate", "--json")
    assert json.loads(result.stdout.splitlines()[-1])["exit_code"] == 2


@pytest.mark.skipif(not os.path.exists("/proc/self"), reason="needs a folder that nobody can write: /proc")
def test_an_unwritable_output_leaves_nothing():
    fails(styleavatar3d("guidance", "--out", "/proc/nowhere", "--count", "1"), 2)


def test_a_full_disk_is_said_plainly():
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full on this system")
    script = (
        "import errno\nfrom styleavatar3d import cli\n"
        "def full(**_):\n    open('/dev/full', 'w').write('x' * 100000)\n"
        "cli.VERBS['doctor'] = lambda: full()\ncli.main(['doctor'])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    fails(result, 2, "the disk is full")


def test_our_own_faults_leave_1_and_say_how_to_see_more():
    script = (
        "from styleavatar3d import cli\ndef broken() -> dict:\n    raise ZeroDivisionError('x')\n"
        "cli.VERBS['doctor'] = broken\ncli.main(['doctor'])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    fails(result, 1, "this is our fault: ZeroDivisionError", "STYLEAVATAR3D_DEBUG=1")


def test_seeds():
    assert parse_seeds("0-3, 8") == [0, 1, 2, 3, 8]
    assert parse_seeds("") == []
    for wrong in ("a", "3-1", "-4", "0-9999999999"):
        with pytest.raises(StyleAvatarError):
            parse_seeds(wrong)


def test_verbs_of_two_words():
    assert split_verb(["train", "gan", "--x"]) == ("train gan", ["--x"])
