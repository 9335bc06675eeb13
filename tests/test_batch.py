"""whyrank batch: every row once, in order, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from server_process import Server
from whyrank import Ranking, RerankRequest, TooLarge, Unauthorized, Unreachable
from whyrank.batch import Reply, Row, Tally, answer_file, count_rows, rejects_beside, rerank_file
from whyrank.cli.batch import PATIENCE, Waiting
from whyrank.errors import DataError, InvalidRequest, PermanentError
from whyrank.jsonl import LineFile
from whyrank.prompting.identity import with_instruction
from whyrank.types import DocumentError, RankedDocument, Usage


class Counting:
    """The part of a reranker that batch needs: a document's score is its length. Counts the concurrent calls."""

    def __init__(self, model: str = "tiny", slow: float = 0.0, fails: Mapping[str, Exception] | None = None) -> None:
        self.model, self.slow, self.fails = model, slow, fails or {}
        self.requests: list[RerankRequest] = []
        self.under_way = self.most = 0

    async def rerank_many(self, requests: Iterable[RerankRequest]) -> list[Ranking | PermanentError]:
        (request,) = requests
        self.requests.append(request)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(self.slow * random.random())
        self.under_way -= 1
        if isinstance(error := self.fails.get(request.query), PermanentError):
            return [error]
        if error is not None:
            raise error
        rows = (RankedDocument(i, d, 1, len(d.text) / 99) for i, d in enumerate(request.documents))
        instruction = request.instruction
        prompt = with_instruction("fake@1", instruction) if instruction else "fake@1"
        return [Ranking(tuple(rows), Usage(len(request.query)), self.model, prompt)]


def write_rows(path: Path, count: int, bad: Sequence[int] = ()) -> Path:
    """Rows are numbered from 1; every third line is followed by a blank one, which is not a row but counts as a line."""
    with path.open("w") as file:
        for number in range(1, count + 1):
            row = {"query": f"q{number}", "documents": ["a" * (number % 7 + 1), "b"], "id": f"id{number}"}
            file.write("{broken\n" if number in bad else json.dumps(row) + "\n")
            file.write("\n" * (number % 3 == 0))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(source: Path, target: Any, **options: Any) -> Tally:
    output = source.with_name("out.jsonl")
    return asyncio.run(rerank_file(source, output, rejects_beside(output), target, options, max_concurrency=4))


def test_one_line_a_row_in_order_with_number_hash_and_id(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", 50)
    target = Counting(slow=0.002)
    assert run(source, target) == Tally(50, 0)
    lines = read(tmp_path / "out.jsonl")
    assert [line["id"] for line in lines] == [f"id{n}" for n in range(1, 51)]
    assert [line["row"] for line in lines] == [n + (n - 1) // 3 for n in range(1, 51)]
    assert len({line["hash"] for line in lines}) == 50
    assert {"results", "usage", "evidence_usage", "model", "prompt"} <= set(lines[0])
    assert not (tmp_path / "out.rejects.jsonl").exists()
    assert target.most == 4, "a window of rows, never more in memory"
    assert count_rows(source) == 50


def test_ids_that_differ_in_half_a_surrogate_pair_stay_apart(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    idents = ["d\ud800", "d\udfff", "d\\ud800", "d?"]
    rows = [{"query": "q", "documents": [{"text": "a", "id": ident}], "id": ident} for ident in idents]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(source, Counting()) == Tally(4, 0)
    lines = read(tmp_path / "out.jsonl")
    assert [(line["id"], line["results"][0]["id"]) for line in lines] == [(ident, ident) for ident in idents]


def test_options_of_a_row_go_before_those_of_the_call(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    rows: list[dict[str, Any]] = [{"query": "a", "documents": ["d"]}, {"query": "b", "documents": ["d"], "top_n": 1}]
    source.write_text("\n".join(map(json.dumps, rows)))  # the last line need not end
    target = Counting()
    assert run(source, target, top_n=3, mode="evidence") == Tally(2, 0)
    assert [(r.top_n, r.mode) for r in target.requests] == [(3, "evidence"), (1, "evidence")]


BAD = {
    "{broken": "not JSON",
    "[1]": "not a JSON object but a list",
    '{"documents": ["d"]}': "no 'query'; its keys are ['documents']",
    '{"query": "q", "documents": []}': "documents is empty",
    '{"query": "q", "documents": [{"txt": "d"}]}': "documents[0] has no 'text'",
    '{"query": "q", "documents": ["d"], "top-n": 3}': "unknown key 'top-n': a row takes cache_salt, deadline_ms",
    '{"query": "q", "documents": ["d"], "top_n": 0}': "top_n is 0",
    '{"query": "big", "documents": ["d"]}': "too many documents",
    '{"query": "q\udcff", "documents": ["d"]}': "not JSON: 'utf-8' codec",
}


def test_rows_may_bring_instructions_of_their_own(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    rows = [
        {"query": "q", "documents": ["a"], **({"instruction": instruction} if instruction else {})}
        for instruction in ("x", "", "y", "x")
    ]
    for count in (1, 4):  # for the first run, and for the one that resumes it
        source.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]))
        assert run(source, Counting()) == Tally(count, 0)
    prompts = [line["prompt"] for line in read(tmp_path / "out.jsonl")]
    assert prompts[0] == prompts[3] and len({*prompts}) == 3


def test_bad_rows_are_put_aside_with_line_and_reason(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    good = '{"query": "ok", "documents": ["d"]}'
    source.write_bytes("\n".join(f"{good}\n{bad}" for bad in BAD).encode(errors="surrogateescape"))
    target = Counting(fails={"big": TooLarge("too many documents")})
    assert run(source, target) == Tally(len(BAD), len(BAD))
    rejects = read(tmp_path / "out.rejects.jsonl")
    assert [line["row"] for line in rejects] == list(range(2, 2 * len(BAD) + 1, 2))
    for line, (bad, reason) in zip(rejects, BAD.items(), strict=True):
        assert line["reason"].startswith(reason), line
        assert line["line"] == bad.replace("\udcff", "\ufffd")
    before = (tmp_path / "out.jsonl").read_bytes(), (tmp_path / "out.rejects.jsonl").read_bytes()
    again = Counting()
    assert run(source, again) == Tally(len(BAD), len(BAD))
    assert again.requests == [], "all is done, rejects too"
    assert before == ((tmp_path / "out.jsonl").read_bytes(), (tmp_path / "out.rejects.jsonl").read_bytes())


@pytest.mark.parametrize("error", [Unreachable("gone"), Unauthorized("wrong key")])
def test_what_may_go_better_later_stops_the_run_and_loses_nothing(error: Exception, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", 30)
    with pytest.raises(type(error)):
        run(source, Counting(fails={"q20": error}))
    assert [line["id"] for line in read(tmp_path / "out.jsonl")] == [f"id{n}" for n in range(1, 20)]
    target = Counting()
    assert run(source, target) == Tally(30, 0)
    assert [request.query for request in target.requests] == [f"q{n}" for n in range(20, 31)]
    assert [line["id"] for line in read(tmp_path / "out.jsonl")] == [f"id{n}" for n in range(1, 31)]


def test_a_degraded_answer_is_no_answer(tmp_path: Path) -> None:
    class Degraded(Counting):
        async def rerank_many(self, requests: Iterable[RerankRequest]) -> list[Ranking | PermanentError]:
            (request,) = requests
            row = RankedDocument(0, request.documents[0], error=DocumentError("unreachable", "half of it was lost"))
            return [Ranking((row,), Usage(), "tiny", "fake@1")]

    with pytest.raises(Unreachable, match="line 1: half of it was lost"):
        run(write_rows(tmp_path / "in.jsonl", 1), Degraded())
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_documents_without_a_score_are_counted_over_all_runs(tmp_path: Path) -> None:
    class Odd(Counting):
        async def rerank_many(self, requests: Iterable[RerankRequest]) -> list[Ranking | PermanentError]:
            (ranking,) = await super().rerank_many(requests)
            assert isinstance(ranking, Ranking)
            failed = RankedDocument(2, ranking.results[0].document, error=DocumentError("engine", "?"))
            return [replace(ranking, results=(*ranking.results, failed))]

    source = tmp_path / "in.jsonl"
    assert run(write_rows(source, 5, bad=[2]), Odd()) == Tally(4, 1, documents_without_score=4)
    assert run(write_rows(source, 7, bad=[2]), Odd()) == Tally(6, 1, documents_without_score=6)
    assert run(source, Counting()) == Tally(6, 1, documents_without_score=6)


def test_a_fresh_start_touches_nothing_that_another_run_writes(tmp_path: Path) -> None:
    source, output = write_rows(tmp_path / "in.jsonl", 3), tmp_path / "out.jsonl"
    run(source, Counting())
    before, other = output.read_bytes(), LineFile(output)
    other.claim("mine")
    again = rerank_file(source, output, rejects_beside(output), Counting(), {}, fresh=True)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="choose another output, or wait"):
        asyncio.run(again)
    assert output.read_bytes() == before
    other.close()
    again = rerank_file(source, output, rejects_beside(output), Counting("huge"), {}, fresh=True)  # type: ignore[arg-type]
    assert asyncio.run(again) == Tally(3) and {line["model"] for line in read(output)} == {"huge"}


def test_a_half_line_is_done_again_wherever_it_broke(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", 3, bad=[2])
    run(source, Counting())
    files = [tmp_path / "out.jsonl", tmp_path / "out.rejects.jsonl"]
    whole = [file.read_bytes() for file in files]
    first, third = whole[0].splitlines(keepends=True)
    history = [(files[0], byte) for byte in first]
    history += [(files[1], byte) for byte in whole[1]] + [(files[0], byte) for byte in third]
    for cut in range(len(history)):
        for path in files:
            path.write_bytes(bytes(byte for file, byte in history[:cut] if file == path))
        run(source, Counting())
        assert [path.read_bytes() for path in files] == whole, cut


def test_another_input_other_options_or_another_model_are_refused(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", 5)
    run(source, Counting())
    with pytest.raises(DataError, match="row 1 comes from another input or from other options"):
        run(source, Counting(), top_n=1)
    source.write_text(source.read_text().replace("q3", "q33"))
    with pytest.raises(DataError, match="row 3 comes from another input"):
        run(source, Counting())
    write_rows(source, 4)
    with pytest.raises(DataError, match="row 6 comes from another input"):
        run(source, Counting())
    write_rows(source, 7)
    with pytest.raises(InvalidRequest, match="answered by tiny with fake@1, and now huge with fake@1 answers"):
        run(source, Counting(model="huge"))
    (tmp_path / "out.jsonl").write_text('{"text": "mine"}\n')
    with pytest.raises(DataError, match=r"line 1: was not written by whyrank batch"):
        run(source, Counting())


def test_two_runs_never_write_to_one_file(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", 5)

    class Nested(Counting):
        async def rerank_many(self, requests: Iterable[RerankRequest]) -> list[Ranking | PermanentError]:
            output = tmp_path / "out.jsonl"
            with pytest.raises(InvalidRequest, match="another run is writing to it"):
                await rerank_file(source, output, rejects_beside(output), Counting(), {})  # type: ignore[arg-type]
            return await super().rerank_many(requests)

    assert run(source, Nested()) == Tally(5, 0)


class Engine(Counting):
    """Takes several requests; its rows are complete."""

    async def rerank_many(self, requests: Iterable[RerankRequest]) -> list[Ranking | PermanentError]:
        answers = list[Ranking | PermanentError]()
        for request in requests:
            (answer,) = await super().rerank_many([request])
            if isinstance(answer, Ranking):
                answer = replace(answer, results=tuple(replace(row, margin=row.score) for row in answer.results))
            answers.append(answer)
        return answers


@pytest.mark.parametrize("options", [{}, {"top_n": 1}])
def test_engines_on_ray_write_the_same_files(options: dict[str, Any], tmp_path: Path) -> None:
    """Without Ray: its tables are handed over one after the other."""
    pytest.importorskip("pyarrow", reason="comes with Ray")
    from whyrank.cluster import ray_data

    class Actor(ray_data._LineEngine):
        def __init__(self) -> None:
            self._reranker: Any = Engine(fails={"big": TooLarge("too many documents")})
            self._options, self._starting, self._has_started = options, asyncio.Lock(), True

    async def answer(rows: Iterator[Row]) -> AsyncGenerator[Reply, None]:
        actor = Actor()
        for table in ray_data._tables(rows):
            async for answered in actor(table):
                for line in answered.to_pylist():
                    yield ray_data._reply(line, options)

    source, folder = write_rows(tmp_path / "in.jsonl", 150, bad=[7]), tmp_path / "ray"
    strange = '{"query": "ok", "documents": [{"text": "a", "id": "d\\ud800"}], "top_n": 2, "id": [1]}'
    more = "\n".join([strange, *BAD]).encode(errors="surrogateescape")
    source.write_bytes(source.read_bytes() + more)
    folder.mkdir()
    tally = run(source, Engine(fails={"big": TooLarge("too many documents")}), **options)
    files = source, folder / "out.jsonl", folder / "out.rejects.jsonl"
    assert asyncio.run(answer_file(*files, answer, options)) == tally == Tally(150, 1 + len(BAD))
    for file in files[1:]:
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


SCRIPT = """
import asyncio, sys
from pathlib import Path
from test_batch import Counting
from whyrank.batch import rejects_beside, rerank_file
source, output = map(Path, sys.argv[1:])
print(asyncio.run(rerank_file(source, output, rejects_beside(output), Counting(slow=0.004), {}, max_concurrency=8)))
"""


def test_killed_at_twenty_moments_and_resumed(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.jsonl", 2000, bad=range(5, 2000, 10))
    output, rejects = tmp_path / "out.jsonl", tmp_path / "out.rejects.jsonl"
    asyncio.run(rerank_file(source, output, rejects, Counting(), {}))  # type: ignore[arg-type]
    whole = output.read_bytes(), rejects.read_bytes()
    output.unlink(), rejects.unlink()

    chance = random.Random(5)
    goals = sorted(chance.sample(range(1, len(whole[0])), 20))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, str(source), str(output)]
    for goal in goals:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while process.poll() is None and not (output.exists() and output.stat().st_size >= goal):
            time.sleep(0.0005)
        time.sleep(chance.random() * 0.004)
        assert process.poll() is None, "it was to be killed in the middle of its work"
        process.send_signal(signal.SIGKILL)
        process.wait()
        with output.open("ab") as file:  # what a crashing machine may leave behind
            file.write(whole[0][:1] * chance.randrange(2))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "answered=1800, rejected=200" in done.stdout
    assert (output.read_bytes(), rejects.read_bytes()) == whole
    handled = [line["row"] for path in (output, rejects) for line in read(path)]
    assert len(handled) == len(set(handled)) == 2000


def whyrank(*arguments: object, most_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    """`most_bytes`: the maximum size of each file that it writes, as if the disk were full then."""
    command = [sys.executable, "-m", "whyrank", "batch", *map(str, arguments)]
    if most_bytes is not None:
        command = ["bash", "-c", f'ulimit -f {most_bytes // 1024}; exec "$@"', "bash", *command]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_the_command_against_a_server(server: Server, tmp_path: Path) -> None:
    source, output = write_rows(tmp_path / "in.jsonl", 12, bad=[4]), tmp_path / "out.jsonl"
    done = whyrank(source, output, "--url", server.url, "--top-n", 1, "--json")
    assert done.returncode == 1, done.stderr
    rejects = tmp_path / "out.rejects.jsonl"
    tally = {"answered": 11, "rejected": 1, "documents_without_score": 0}
    assert json.loads(done.stdout) == {**tally, "output": str(output), "rejects": str(rejects)}
    lines = read(output)
    assert all(len(line["results"]) == 1 and line["prompt"].startswith("prism@") for line in lines)
    before = output.read_bytes()
    done = whyrank(source, output, "--url", server.url, "--top-n", 1)
    assert "11 rows answered" in done.stdout and "1 rows rejected" in done.stdout and output.read_bytes() == before
    done = whyrank(source, output, "--url", server.url, "--top-n", 2)
    assert done.returncode == 2 and "other options" in done.stderr and "Traceback" not in done.stderr
    done = whyrank(source, output, "--url", server.url, "--top-n", 2, "--fresh")
    assert done.returncode == 1 and all(len(line["results"]) == 2 for line in read(output))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        pytest.param(
            ["-m", "demo"],
            "--ray needs Ray (No module named 'ray'): pip install 'whyrank[ray]'",
            marks=pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed"),
        ),
        (["--url", "http://localhost:9"], "give --model, and no --url"),
    ],
)
def test_ray_and_a_model_are_needed_for_engines_on_ray(flags: list[str], message: str, tmp_path: Path) -> None:
    source, output = write_rows(tmp_path / "in.jsonl", 1), tmp_path / "out.jsonl"
    done = whyrank(source, output, *flags, "--ray")
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not output.exists()


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(server: Server, tmp_path: Path) -> None:
    source, output = write_rows(tmp_path / "in.jsonl", 12), tmp_path / "out.jsonl"
    done = whyrank(source, output, "--url", server.url, most_bytes=1024)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"error: {output}: File too large; what was answered is kept: run the same command again" in done.stderr
    assert 1 <= output.read_bytes().count(b"\n") < 12
    done = whyrank(source, output, "--url", server.url)
    assert done.returncode == 0, done.stderr
    assert [line["id"] for line in read(output)] == [f"id{n}" for n in range(1, 13)]


def test_documents_without_a_score_are_exit_code_1(server: Server, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    windows = {"truncation": "windows", "max_tokens_per_doc": 128}
    source.write_text(json.dumps({"query": "q", "documents": ["word " * 60_000, "b"], **windows}) + "\n")
    for _ in range(2):  # once fresh, and once as the output of an earlier run
        done = whyrank(source, output, "--url", server.url)
        assert done.returncode == 1, done.stderr
        assert f"1 documents without a score: their 'error' in {output} says why" in done.stdout
    assert json.loads(whyrank(source, output, "--url", server.url, "--json").stdout)["documents_without_score"] == 1


def test_half_a_surrogate_pair_costs_no_other_row(server: Server, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    odd, document = "a\ud800b", {"text": "d"}
    rows: list[dict[str, Any]] = [
        {"query": "q", "documents": ["plain"]},
        {"query": odd, "documents": ["d"]},
        {"query": "q", "documents": [odd, "d"]},
        {"query": "q", "documents": [{**document, "title": odd}]},
        {"query": "q", "documents": [{**document, "id": odd}]},
        {"query": "q", "documents": [{**document, "metadata": {odd: odd}}]},
        {"query": "q", "documents": [{**document, odd: odd}]},
        {"query": "q", "documents": ["d"], "id": {odd: odd}},
        {"query": "q", "documents": ["d"], "instruction": odd},
        {"query": "q", "documents": ["d"], odd: 1},
        {"query": "q", "documents": ["d"], "mode": odd},
        {"query": "q", "documents": ["d"], "cache_salt": odd},
        {odd: odd},
        {"query": "q", "documents": ["the last"], "id": "last"},
    ]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = whyrank(source, output, "--url", server.url, "--json")
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    answered, rejected = read(output), read(tmp_path / "out.rejects.jsonl")
    assert len(answered) + len(rejected) == len(rows)
    assert [line["row"] for line in rejected][-4:] == [10, 11, 12, 13], rejected
    assert answered[-1]["id"] == "last" and all(line["results"][-1]["score"] is not None for line in answered)


def test_a_server_that_does_not_answer_is_waited_for_and_that_is_said_now_and_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:  # bound, but nobody listens on it
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        source = write_rows(tmp_path / "in.jsonl", 9)
        command = [sys.executable, "-m", "whyrank", "batch", str(source), str(tmp_path / "out.jsonl"), "--url", url]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            process.kill()
            assert line.startswith(f"waiting for {url}, at most 600 seconds per row: "), line
            assert process.stderr.read() == "", "once, not for each row"
    assert PATIENCE["timeout"] == 600 and PATIENCE["retry"].pause(10_000, Unreachable("gone")) is not None
    moments = iter([100.0, 101.0, 129.9, 130.0, 131.0])
    waits = Waiting(lambda: next(moments))
    for number in range(5):
        waits("http://a", Unreachable(f"http://a: [{number}]"))
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()] == ["[0]", "[3]"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.jsonl", "out.jsonl", "--url", "http://localhost:1"], "gone.jsonl: No such file"),
        (["same.jsonl", "./same.jsonl", "--url", "http://localhost:1"], "must be three different files"),
        (["in.jsonl", "out.jsonl"], "give either --model, to load a model, or --url"),
        (["in.jsonl", "out.jsonl", "-m", "m", "--mode", "why"], "mode is 'why'"),
        ([os.devnull, "gone/out.jsonl", "-m", "m"], "gone/out.jsonl: there is no folder gone: create it, or choose"),
        ([os.devnull, "out.jsonl", "-m", "m", "--rejects", "gone/r"], "gone/r: there is no folder gone"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = whyrank(*arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr, done.stderr


def test_help_has_examples() -> None:
    assert "whyrank batch requests.jsonl answers.jsonl" in whyrank("--help").stdout
