// The call as code.

export function asCurl(url, request) {
  // JSON has no line that is just JSON, so nothing in a text can end the here-document.
  return `curl ${shell(url)} \\\n  -H "Authorization: Bearer $WHYRANK_API_KEY" \\\n` +
    `  -H "Content-Type: application/json" \\\n  --data-binary @- <<'JSON'\n${escaped(JSON.stringify(request, null, 2))}\nJSON\n`;
}

const shell = (text) => (/^[\w:/.-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

export function asPython(url, request) {
  const shown = { evidence: 'row.get("contribution", "")', spans: 'row.get("spans", [])' }[request.mode] || 'row["document"]["text"][:80]';
  return `import os\n\nimport httpx\n\nanswer = httpx.post(\n    ${python(url)},\n` +
    `    headers={"Authorization": f"Bearer {os.environ.get('WHYRANK_API_KEY', 'none')}"},\n` +
    `    json=${python(request, "    ")},\n    timeout=120,\n)\nanswer.raise_for_status()\n` +
    `for row in answer.json()["results"]:\n    print(row["rank"], row["score"], ${shown})\n`;
}

/** A JSON value as Python writes it. JSON's strings and numbers are Python's too. */
function python(value, indent = "") {
  if (value === null || typeof value === "boolean") return { null: "None", true: "True", false: "False" }[value];
  if (typeof value !== "object") return escaped(JSON.stringify(value));
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const parts = Object.entries(value).map(([key, part]) => {
    const written = python(part, indent + "    ");
    return `${indent}    ${Array.isArray(value) ? "" : escaped(JSON.stringify(key)) + ": "}${written},\n`;
  });
  return parts.length ? `${open}\n${parts.join("")}${indent}${close}` : open + close;
}

/** Bidi marks and C1 controls as escapes: code has to read as it runs. */
function escaped(json) {
  return json.replace(/[\x7F-\x9F\u061C\u200E\u200F\u2028-\u202E\u2066-\u2069]/g, (character) => "\\u" + character.charCodeAt(0).toString(16).padStart(4, "0"));
}
