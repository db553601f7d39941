"""On a real Ray cluster of this machine: actors that die, machines that come and go, damaged images everywhere."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from large_runs import command, contents, write_input
from posefix.batch import BatchRefiner, BatchSettings
from posefix.cli.main import main
from posefix.exceptions import InputError

ray = pytest.importorskip("ray", reason="needs the extra posefix[ray]; make test-ray runs these")
pytest.importorskip("ray.data")

import pyarrow as pa  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from posefix.distributed import _resources, refine_dataset, refine_parts_on_ray  # noqa: E402
from posefix.io.parquet import entries_to_table, people_schema  # noqa: E402
from posefix.shards.local import table_of_json  # noqa: E402
from posefix.shards.run import open_run  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")
SIZE = ("--part-size", "6")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A machine of two CPUs."""
    memory = {"object_store_memory": 200 * 2**20}
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False, **memory})
    source = str(Path(__file__).resolve().parent.parent / "src")
    tests = str(Path(__file__).resolve().parent)
    paths = os.pathsep.join([source, tests, os.environ.get("PYTHONPATH", "")])
    ray.init(
        address=found.address,
        logging_level="error",
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": paths}},
    )
    ray.data.DataContext.get_current().execution_no_progress_timeout_s = 120  # a run that hangs fails soon
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An input, and the run of one process that nothing interrupted."""
    found = tmp_path_factory.mktemp("input")
    write_input(found, images=60)
    main.main([*command(found, found / "whole", *SIZE, "--resume")], standalone_mode=False)
    return found


def settings_for(folder: Path, **changes: Any) -> BatchSettings:
    plain: dict[str, Any] = {"images": str(folder / "images"), "weights": str(folder / "weights"), "device": "cpu"}
    return BatchSettings(**(plain | {"batch_size": 8} | changes))


def workers() -> list[int]:
    """Processes of actors that refine; Ray names its processes by what they do."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            name = path.read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::") and b"PartRefiner" in name:
            found.append(int(path.parent.name))
    return found


def when(condition: Any, act: Any) -> threading.Thread:
    """Do something as soon as a condition holds."""

    def wait() -> None:
        end = time.monotonic() + 120
        while time.monotonic() < end and not condition():
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def parts_in(out: Path) -> int:
    return len(list(out.glob("part-*.parquet")))


def test_the_command_writes_the_same_files(cluster: Any, folder: Path, tmp_path: Path) -> None:
    arguments = command(folder, tmp_path / "run", *SIZE, "--engine", "ray")
    main.main(arguments, standalone_mode=False)
    assert contents(tmp_path / "run") == contents(folder / "whole")


def wait_for_cpus(count: int) -> None:
    """Until the cluster has so many; Ray takes seconds to see that a machine is gone."""
    end = time.monotonic() + 120
    while ray.cluster_resources().get("CPU", 0.0) != count:
        assert time.monotonic() < end, ray.cluster_resources()
        time.sleep(0.2)


def slow_run(folder: Path, out: Path) -> Any:
    """A run whose parts take long enough to be interrupted: one thread, one image at a time."""
    from posefix.io.storage import Storage
    from posefix.keypoints.skeleton import COCO

    settings = settings_for(folder)
    table = table_of_json(str(folder / "results.json"), Storage(str(out)), COCO)
    import posefix

    return open_run(table, str(out), settings, BatchRefiner(settings), part_size=6, version=posefix.__version__)


def test_an_actor_is_killed_in_the_middle(cluster: Any, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = slow_run(folder, out)
    killed: list[int] = []

    def kill() -> None:
        for pid in workers()[:1]:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    thread = when(lambda: parts_in(out) >= 2, kill)
    tally = refine_parts_on_ray(run, range(run.plan.parts), lambda people: None, actors=3, actor_cpus=0.5)
    thread.join()
    assert killed
    assert tally.people == 180
    assert tally.status["unread"] == 30
    assert contents(out) == contents(folder / "whole")


def test_a_machine_comes_and_goes(cluster: Any, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run = slow_run(folder, out)
    nodes: list[Any] = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)]
    thread = when(lambda: parts_in(out) >= 3, lambda: cluster.remove_node(nodes.pop(), allow_graceful=False))
    tally = refine_parts_on_ray(run, range(run.plan.parts), lambda people: None, actors=3, actor_cpus=0.75)
    thread.join()
    wait_for_cpus(2)
    assert not nodes
    assert tally.people == 180
    assert contents(out) == contents(folder / "whole")


@pytest.mark.parametrize("blocks", [1, 7])
def test_a_dataset_gives_what_one_table_gives(cluster: Any, folder: Path, blocks: int) -> None:
    entries = [e for e in json.loads((folder / "results.json").read_text()) if len(e["keypoints"]) == 51]
    table = entries_to_table(entries, people_schema(17))
    settings = settings_for(folder, prior_weight=1.1)
    expected = BatchRefiner(settings)(table)
    people = ray.data.from_arrow(table).repartition(blocks)  # cuts through images
    refined = refine_dataset(people, settings, actors=2, images_per_batch=9)
    found = pa.concat_tables(refined.iter_batches(batch_format="pyarrow", batch_size=None)).sort_by("row")
    assert found.num_rows == len(entries)
    for name in ("row", "refined_keypoints", "refined_score", "status", "error"):
        assert found[name].combine_chunks().equals(expected[name].combine_chunks()), name


def test_a_dataset_outlives_a_machine(cluster: Any, folder: Path) -> None:
    """Actors sized for the machines of the start leave no CPU to read with after one is gone, and wait for ever."""
    entries = [e for e in json.loads((folder / "results.json").read_text()) if len(e["keypoints"]) == 51]
    node = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    wait_for_cpus(3)
    people = ray.data.from_arrow(entries_to_table(entries, people_schema(17)))
    refined = refine_dataset(people, settings_for(folder, prior_weight=1.1), actors=2)
    cluster.remove_node(node, allow_graceful=False)
    wait_for_cpus(2)
    assert refined.count() == len(entries)


def test_reliability_of_a_dataset_does_not_depend_on_its_blocks(cluster: Any, folder: Path) -> None:
    from posefix.distributed import _measured

    entries = [e for e in json.loads((folder / "results.json").read_text()) if len(e["keypoints"]) == 51]
    table = entries_to_table(entries, people_schema(17))
    weights = {
        _measured(ray.data.from_arrow(table).repartition(blocks), "file_name", settings_for(folder))
        for blocks in (1, 5)
    }
    assert len(weights) == 1


def test_actors_leave_room_for_readers(cluster: Any) -> None:
    assert _resources(2, None, None) == ((2, 2), 0.5, 0.0)  # two of one CPU each would starve the readers
    assert _resources(None, None, None) == ((1, 1), 1.0, 0.0)
    assert _resources((1, 4), None, None) == ((1, 4), 0.25, 0.0)
    assert _resources(None, None, None, readers=0) == ((2, 2), 1.0, 0.0)
    assert _resources(1, 2.0, 0.5) == ((1, 1), 2.0, 0.5)
    with pytest.raises(InputError, match="actors"):
        _resources((3, 2), None, None)


def test_a_dataset_without_names_is_refused(cluster: Any, folder: Path) -> None:
    with pytest.raises(InputError, match="file_name or image_id"):
        refine_dataset(ray.data.from_items([{"x": 1}]), settings_for(folder))
