"""MTEB: a cross-encoder that mteb.evaluate takes, answered by a server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from whyrank.adapters.base import BaseAdapter, framework
from whyrank.errors import InvalidRequest

with framework(extra="mteb"):
    import numpy as np
    from mteb.models import ModelMeta

if TYPE_CHECKING:
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.types import Array, BatchedInput, PromptType
    from torch.utils.data import DataLoader

__all__ = ["WhyrankCrossEncoder"]

# An evaluation is not interactive, so it may wait long for a server.
_PATIENCE_SECONDS = 600.0


class WhyrankCrossEncoder:
    """mteb.evaluate(WhyrankCrossEncoder("organisation/model", base_url="http://localhost:8000"), tasks)

    MTEB files results under name and revision: give those of the server's model. `device` has no effect. Further options are
    those of BaseAdapter. Predictions are margins, because scores near 1 are too close together to sort by.
    """

    def __init__(self, model_name: str, revision: str | None = None, device: str | None = None, **options: Any) -> None:
        # Some tasks have long texts as queries, which every evaluation cuts.
        self._asking = BaseAdapter(**{"timeout": _PATIENCE_SECONDS, "truncate_query": True} | options)
        about = {"name": model_name, "revision": revision, "model_type": ["cross-encoder"], "loader": type(self)}
        self.mteb_model_meta = ModelMeta.create_empty(about)

    def predict(
        self,
        inputs1: DataLoader[BatchedInput],
        inputs2: DataLoader[BatchedInput],
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **ignored: Any,
    ) -> Array:
        pairs = list(zip(_texts(inputs1, "queries"), _texts(inputs2, "documents"), strict=True))
        return np.array([margin for _, margin in self._asking.numbers_of_pairs(pairs)])


def _texts(loader: DataLoader[BatchedInput], name: str) -> list[str]:
    texts: list[str] = []
    for batch in loader:
        if "text" not in batch:
            raise InvalidRequest(f"the task's {name} are {', '.join(sorted(batch))}: only texts can be reranked")
        texts += batch["text"]
    return texts
