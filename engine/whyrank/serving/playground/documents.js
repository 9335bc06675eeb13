// Documents from what was typed, and from files.

const MAX_FILE_BYTES = 10 * 2 ** 20;
const TEXT_COLUMNS = ["text", "content", "body", "document", "passage"];
const ID_COLUMNS = ["id", "_id", "docid"];

export function isJson(text) {
  try { JSON.parse(text); return true; } catch { return false; }
}

/** The documents, and how the text was read. */
export function parseDocuments(text) {
  const trimmed = text.trim();
  if (!trimmed) return { documents: [], how: "" };
  if (/^\[\s*["{]/.test(trimmed) && isJson(trimmed)) return { documents: JSON.parse(trimmed), how: "a JSON list" };
  if (trimmed.startsWith("{")) return { documents: jsonLines(text), how: "JSON lines" };
  const blocks = trimmed.split(/\n[^\S\n]*\n\s*/);
  const lines = blocks.length > 1 ? blocks : trimmed.split("\n");
  const documents = lines.map((line) => line.trim()).filter(Boolean);
  return { documents, how: blocks.length > 1 ? "blocks between empty lines" : "one per line" };
}

function jsonLines(text) {
  return text.split("\n").flatMap((line, i) => {
    if (!line.trim()) return [];
    try {
      return [JSON.parse(line)];
    } catch (error) {
      throw new Error(`Line ${i + 1} of the documents is not JSON, although the first line is (${error.message}).`);
    }
  });
}

export const toJsonLines = (documents) => documents.map((one) => JSON.stringify(one)).join("\n");

/** What the model reads of a document. */
export function contentOf(given) {
  if (typeof given === "string") return given;
  return given.title ? `${given.title} ${given.text}` : String(given.text);
}

/** The text for the documents field: a single text file unchanged, tables and several files as JSON lines. */
export async function readFiles(files) {
  const read = await Promise.all(files.map(readFile));
  if (read.length === 1) return read[0];
  return toJsonLines(read.flatMap((text, i) => documentsOf(text, files[i].name)).map((one) => (one.text === undefined ? { text: one } : one)));
}

function documentsOf(text, name) {
  try {
    return parseDocuments(text).documents;
  } catch (error) {
    throw new Error(`${name}: ${error.message}`);
  }
}

async function readFile(file) {
  const text = await decoded(file);
  return /\.[ct]sv$/i.test(file.name) ? toJsonLines(fromTable(parseTable(text), file.name)) : text.replace(/\r\n?/g, "\n");
}

async function decoded(file) {
  if (file.size > MAX_FILE_BYTES) {
    const size = Math.ceil(file.size / 2 ** 20);
    throw new Error(`${file.name} has ${size} MiB, and the limit of this page is ${MAX_FILE_BYTES / 2 ** 20} MiB: use "whyrank rerank -d ${file.name}".`);
  }
  let bytes;
  try {
    bytes = new Uint8Array(await file.arrayBuffer());
  } catch {
    throw new Error(`${file.name} cannot be read. If it is a folder, choose the files in it.`);
  }
  const encoding = { 0xfffe: "utf-16le", 0xfeff: "utf-16be" }[(bytes[0] << 8) | bytes[1]] || "utf-8";
  let text = "\0";
  try { text = new TextDecoder(encoding, { fatal: true }).decode(bytes); } catch { /* reported below */ }
  if (text.includes("\0")) throw new Error(`${file.name} is not text in UTF-8. Save it as plain text, CSV or JSON lines in UTF-8.`);
  return text;
}

/** Rows of a CSV or TSV text (RFC 4180); what separates values is taken from its first line. */
function parseTable(text) {
  const [head] = text.split(/[\r\n]/, 1);
  const counts = [",", ";", "\t"].map((mark) => [head.split(mark).length, mark]);
  const separator = counts.reduce((best, one) => (one[0] > best[0] ? one : best))[1];
  const field = new RegExp(`(?:"([^"]*(?:""[^"]*)*)"|([^${separator}\\r\\n]*))(${separator}|\\r\\n?|\\n|$)`, "y");
  const rows = [[]];
  while (field.lastIndex < text.length) {
    const [, quoted, bare, end] = field.exec(text);
    rows.at(-1).push(quoted === undefined ? bare : quoted.replaceAll('""', '"'));
    if (end === "") break;
    if (end !== separator) rows.push([]);
  }
  return rows.filter((row) => row.some((value) => value.trim()));
}

function fromTable(rows, name) {
  if (!rows.length) throw new Error(`${name} is empty.`);
  const columns = rows[0].map((column) => column.trim());
  const lower = columns.map((column) => column.toLowerCase());
  const text = lower.findIndex((column) => TEXT_COLUMNS.includes(column));
  if (text < 0 && columns.length === 1) return rows.map(([value]) => ({ text: value })); // a list without a head
  if (text < 0) throw new Error(`${name} has no column "text"; it has ${columns.join(", ")}. Rename the one that holds the text.`);
  return rows.slice(1).map((values, i) => {
    if (values.length > columns.length) throw new Error(`${name}: row ${i + 2} has ${values.length} values for ${columns.length} columns. Is a quotation mark missing?`);
    const made = { text: values[text] ?? "" };
    const rest = lower.map((column, place) => [column, place]).filter(([, place]) => place !== text && values[place]);
    for (const [column, place] of rest) {
      if (ID_COLUMNS.includes(column)) made.id = values[place];
      else if (column === "title") made.title = values[place];
      else (made.metadata ??= {})[columns[place]] = values[place];
    }
    return made;
  });
}
