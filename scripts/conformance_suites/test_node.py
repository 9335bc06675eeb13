# /// script
# dependencies = []
# [tool.conformance]
# npm = ["cohere-ai", "voyageai", "@langchain/cohere", "@langchain/core", "ai", "@ai-sdk/cohere"]
# ///
"""Clients for Node.js. Each runs a few lines that print pairs of index and score."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from served import DOCUMENTS, QUERY, SERVED, check

# `load` imports an installed package; `url`, `key`, `query`, `documents` and `top` (undefined: all) are there.
_HEAD = """
const {createRequire} = require("module"), {pathToFileURL} = require("url");
const resolve = createRequire(process.env.CONFORMANCE_NODE_MODULES + "/none.js").resolve;
const load = (name) => import(pathToFileURL(resolve(name)));
const {url, key, query, documents, top} = JSON.parse(process.argv[1]);
const model = "rerank-v3.5";
"""
_CLIENTS = {
    "cohere-ai, version 2": """
        const {CohereClientV2} = await load("cohere-ai");
        const client = new CohereClientV2({token: key, environment: url});
        const answer = await client.rerank({model, query, documents, topN: top});
        return answer.results.map((row) => [row.index, row.relevanceScore]);
    """,
    "cohere-ai, version 2, at /cohere": """
        const {CohereClientV2} = await load("cohere-ai");
        const client = new CohereClientV2({token: key, environment: url + "/cohere"});
        const answer = await client.rerank({model, query, documents, topN: top});
        return answer.results.map((row) => [row.index, row.relevanceScore]);
    """,
    "cohere-ai, version 1": """
        const {CohereClient} = await load("cohere-ai");
        const client = new CohereClient({token: key, environment: url});
        const answer = await client.rerank({model, query, documents, topN: top, returnDocuments: true});
        if (answer.results.some((row) => row.document.text !== documents[row.index])) throw Error("other documents");
        return answer.results.map((row) => [row.index, row.relevanceScore]);
    """,
    "cohere-ai, version 1, at /cohere": """
        const {CohereClient} = await load("cohere-ai");
        const client = new CohereClient({token: key, environment: url + "/cohere"});
        const answer = await client.rerank({model, query, documents, topN: top, returnDocuments: true});
        if (answer.results.some((row) => row.document.text !== documents[row.index])) throw Error("other documents");
        return answer.results.map((row) => [row.index, row.relevanceScore]);
    """,
    "voyageai": """
        const {VoyageAIClient} = await load("voyageai");
        const client = new VoyageAIClient({apiKey: key, environment: url + "/v1"});
        const answer = await client.rerank({model: "rerank-2.5", query, documents, topK: top});
        return answer.data.map((row) => [row.index, row.relevanceScore]);
    """,
    "voyageai at /voyage/v1": """
        const {VoyageAIClient} = await load("voyageai");
        const client = new VoyageAIClient({apiKey: key, environment: url + "/voyage/v1"});
        const answer = await client.rerank({model: "any", query, documents, topK: top, returnDocuments: true});
        if (answer.data.some((row) => row.document !== documents[row.index])) throw Error("other documents");
        return answer.data.map((row) => [row.index, row.relevanceScore]);
    """,
    "@langchain/cohere": """
        const {CohereRerank} = await load("@langchain/cohere"), {CohereClient} = await load("cohere-ai");
        const client = new CohereClient({token: key, environment: url});
        const compressor = new CohereRerank({client, model, topN: top ?? documents.length});
        const given = documents.map((text, place) => ({pageContent: text, metadata: {place}}));
        const found = await compressor.compressDocuments(given, query);
        return found.map((one) => [one.metadata.place, one.metadata.relevanceScore]);
    """,
    "@ai-sdk/cohere": """
        const {createCohere} = await load("@ai-sdk/cohere"), {rerank} = await load("ai");
        const provider = createCohere({baseURL: url + "/v2", apiKey: key});
        const answer = await rerank({model: provider.reranking(model), query, documents, topN: top, maxRetries: 0});
        return answer.ranking.map((row) => [row.originalIndex, row.score]);
    """,
}


def run(client: str, query: str = QUERY, key: str = SERVED.key, top: int | None = None) -> list[tuple[int, float]]:
    script = f"{_HEAD}(async () => {{{_CLIENTS[client]}}})().then((rows) => console.log(JSON.stringify(rows)));"
    given = {"url": SERVED.url, "key": key, "query": query, "documents": DOCUMENTS, **({"top": top} if top else {})}
    done = subprocess.run(
        ["node", "-e", script, json.dumps(given)], env=os.environ, capture_output=True, text=True, timeout=100
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr)
    return [(index, score) for index, score in json.loads(done.stdout.splitlines()[-1])]


@pytest.mark.parametrize("client", _CLIENTS)
@pytest.mark.parametrize("top", [None, 2])
def test_rerank(client: str, top: int | None) -> None:
    check(run(client, top=top), top or 4)


@pytest.mark.parametrize("client", _CLIENTS)
def test_a_refusal_names_the_fault(client: str) -> None:
    with pytest.raises(RuntimeError, match="query is empty"):
        run(client, query=" ")


@pytest.mark.parametrize("client", _CLIENTS)
def test_a_wrong_key(client: str) -> None:
    if SERVED.is_open:
        check(run(client, key="wrong"))
        return
    with pytest.raises(RuntimeError, match="Authorization: Bearer KEY"):
        run(client, key="wrong")
