# /// script
# dependencies = ["requests"]
# [tool.conformance]
# sdist = "vllm"
# engine = true
# works-with = []
# ///
"""vLLM's own tests of its score and rerank APIs, from the source distribution of the version that is served.

They start a server on a model from a hub and hold it against a library. Here both are stood in for: the server is the one that
runs, and right is what it says of each pair by itself.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from served import SERVED

_FOLDER = "tests.entrypoints.pooling.scoring."
_MODULES = [f"{_FOLDER}test_cross_encoder_online", f"{_FOLDER}test_bi_encoder_online"]
_MODULES += ["tests.entrypoints.generate.generative_scoring.test_generative_scoring_e2e"]


class RemoteOpenAIServer:
    """In place of vLLM's, which starts a server."""

    def url_for(self, *parts: str) -> str:
        return "/".join((SERVED.url, *(part.strip("/") for part in parts)))


class PairByPair:
    """In place of vLLM's runners of the same model in a library."""

    def predict(self, pairs: Sequence[Sequence[str]]) -> torch.Tensor:
        return torch.tensor([SERVED.rows(query, [text])[0]["relevance_score"] for query, text in pairs])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> RemoteOpenAIServer:
    import requests

    send = requests.post
    headers = {"Authorization": f"Bearer {SERVED.key}"}
    monkeypatch.setattr(requests, "post", lambda *args, **more: send(*args, headers=headers, timeout=60, **more))
    look = requests.get
    monkeypatch.setattr(requests, "get", lambda *args, **more: look(*args, headers=headers, timeout=60, **more))
    return RemoteOpenAIServer()


@pytest.fixture
def hf_model() -> PairByPair:
    return PairByPair()


def _stand_in(name: str, **attributes: Any) -> None:
    """Under the name of a module of vLLM's tests which would import far more than this needs."""
    module = types.ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


def _collect() -> None:
    sys.path.insert(0, os.environ["CONFORMANCE_SDIST"])
    _stand_in("tests.utils", RemoteOpenAIServer=RemoteOpenAIServer)
    _stand_in(f"{_FOLDER}util", EncoderScoringHfRunner=PairByPair)
    for name in _MODULES:
        module = importlib.import_module(name)
        vars(module)["MODEL_NAME"] = SERVED.model
        label = name.rpartition("test_")[2]
        for test, function in vars(module).items():
            if test.startswith("test_"):
                globals()[f"test_{label}__{test.removeprefix('test_')}"] = function
            elif test.startswith("Test"):
                globals()[test] = function


_collect()
