// What the server is asked. An error it answers with is thrown, with its words.

export class Refused extends Error {
  constructor(words, status) {
    super(words);
    this.status = status;
  }
}

async function ask(path, body) {
  const options = body === undefined
    ? {}
    : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Refused("The server does not answer. Is cleanweb review still running?", 0);
  }
  if (answer.status === 401) throw new Refused(await answer.text(), 401);
  const found = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
  if (!answer.ok) throw new Refused(found.error, answer.status);
  return found;
}

export const about = () => ask("/api/about");
export const stamp = () => ask("/api/stamp");
export const history = () => ask("/api/history");
export const total = (question) => ask("/api/count", { question });
export const page = (question, begin, end) => ask("/api/page", { question, begin, end });
export const decide = (action, rows, label) =>
  ask("/api/decide", {
    action,
    label,
    ids: rows.map((row) => row.sample_id),
    seen: Object.fromEntries(rows.map((row) => [row.sample_id, row.mark])),
  });
export const undo = (review_ids) => ask("/api/undo", { review_ids });

// The file's hash keeps a browser from showing an old picture under the same name.
export const picture = (row, size) =>
  `/picture?${new URLSearchParams({ id: row.sample_id, size, v: (row.sha256 || "").slice(0, 12) })}`;

export const whyNoPicture = async (row) => {
  try {
    await ask(picture(row, "small"));
    return "cannot be shown";
  } catch (error) {
    return error.message;
  }
};
