"""A short run of the torture: kills, faults and a full disk; ``make torture`` runs all of it."""

from __future__ import annotations

import random
import sys

import evaluations
import faults
import full_disk
import kills
import pytest
from scene import Scene
from scenes import SCENES

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="processes are forked and watched by /proc"
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A small merge, with a server that runs it."""
    made = Scene(tmp_path_factory.mktemp("torture") / "scene", tensors=6)
    yield made
    made.close()


@pytest.fixture(scope="module")
def calls(scene):
    """What a merge asks of the system, in order."""
    return kills.calls_of_a_merge(scene)


def test_killed_at_random_moments(scene):
    """SIGKILL from outside at 12 random moments: each time the same command gives the same bytes."""
    assert kills.kill_at_random(scene, 12, seed=1) >= 12


def test_killed_around_the_rename(scene, calls):
    """SIGKILL before and after the last writes, the rename and everything after it: identical outputs."""
    rename = calls.index("rename") + 1
    assert kills.kill_at_calls(scene, range(rename - 5, rename + 6)) > 10


def test_killed_around_writes(scene, calls):
    """SIGKILL before and after writes, those of the journal among them: identical outputs."""
    writes = [number for number, call in enumerate(calls, 1) if call == "pwrite"]
    assert kills.kill_at_calls(scene, writes[::3]) > 10


@pytest.mark.parametrize("start", range(4))
def test_failing_calls(scene, calls, start):
    """Calls that fail give one error of ours or a right output, never a wrong one, and the same command continues."""
    assert faults.fail_at_calls(scene, range(1 + start, len(calls) + 1, 16)) > 0


def test_short_reads_and_writes(scene, calls):
    """A call that moves half of its bytes is called again: the output is right."""
    faults.shorten_calls(scene, kills.moving(calls)[::5])


@pytest.mark.skipif(full_disk.cannot_mount() is not None, reason=f"{full_disk.cannot_mount()}")
@pytest.mark.parametrize("reserve", [True, False])
def test_a_disk_that_fills_up(scene, reserve):
    """A tmpfs fills up in the middle: a clear error; space is made, the same command gives the same bytes."""
    with full_disk.small_disk(str(scene.folder / "disk"), 8 << 20) as disk:
        writes = full_disk.writes_of_a_merge(scene, disk)
        codes = [full_disk.fill_up_at(scene, disk, n, reserve=reserve) for n in writes[1::6]]
    assert 6 in codes


@pytest.mark.parametrize("name", SCENES)
def test_every_form_of_output(name, tmp_path):
    """Vocabularies, folders, 8-bit floats, transplants, mixtures, experts: calls fail or fall short, processes die."""
    scene, chance = Scene(tmp_path / "scene", kind=SCENES[name]), random.Random(name)
    calls = kills.calls_of_a_merge(scene)
    reads = [n for n in kills.looking(calls) if n < calls.index("pwrite")]
    faults.fail_at_calls(scene, sorted({*chance.sample(reads, 10), *chance.sample(range(1, len(calls) + 1), 8)}))
    assert kills.kill_at_calls(scene, chance.sample(kills.changing(calls), 3)) >= 4
    faults.shorten_calls(scene, chance.sample(kills.moving(calls), 3))
    scene.close()


@pytest.mark.parametrize("verb", evaluations.VERBS)
def test_killed_evaluations(verb, tmp_path):
    """SIGKILL at random moments of an evaluation and a soup: the cache is sound, the same command gives the figures."""
    assert evaluations.kill_evaluations(tmp_path / "bench", verb, 3, seed=1) >= 3
