// One picture at a time. An answer counts on the page at once and is stored behind it, with others that wait; where
// storing fails it is gone from the page, too.

const by = id => document.getElementById(id)
const MOST_FOUND = 50 // classes in the list
let asked, place = 0, storing = null
const unsent = new Map() // place → what stood there before
const taken = [] // places in the order they were answered here: what "take back" takes back

// Control characters and marks that turn the direction of writing are shown, not obeyed.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u200e\u200f\u202a-\u202e\u2066-\u2069]/g
const shown = text => String(text).replace(UNSEEN, c => "\\x" + c.codePointAt(0).toString(16).padStart(2, "0"))

async function ask(name, body) {
  const post = { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), keepalive: true }
  const reply = await fetch(`/api/${name}`, body ? post : {})
  if (reply.status === 401) throw new Error("This page is not known any more: open the address that cleanweb has printed.")
  const told = await reply.json()
  if (!reply.ok) throw new Error(told.error)
  return told
}

function problem(words) {
  by("problem").textContent = shown(words)
  by("problem").hidden = !words
}

// --- asking ---------------------------------------------------------------------------------------------------------

const address = at => `/picture?position=${at}&size=large`

function show(at) {
  place = Math.max(0, Math.min(at, asked.pictures.length - 1))
  const { first, second, answer, label } = asked.pictures[place]
  by("asking").hidden = false
  by("told").hidden = true
  by("gone").hidden = true
  by("picture").hidden = false
  if (by("picture").getAttribute("src") !== address(place)) by("picture").src = address(place)
  by("picture").alt = `Picture ${place + 1} of ${asked.pictures.length}`
  by("first").querySelector("bdi").textContent = shown(first)
  by("second").querySelector("bdi").textContent = shown(second)
  const own = answer === "class" && label !== first && label !== second
  by("other").querySelector("bdi").textContent = own ? shown(label) : "another class …"
  by("other").hidden = asked.classes.length <= 2
  const pressed = { first: answer === "class" && label === first, second: answer === "class" && label === second, other: own,
    none: answer === "none", unsure: answer === "unsure" }
  for (const [id, is] of Object.entries(pressed)) by(id).setAttribute("aria-pressed", is)
  by("back").disabled = place === 0
  by("forward").disabled = place === asked.pictures.length - 1
  by("undo").disabled = !taken.length
  close()
  count()
  for (let next = place + 1; next < Math.min(place + 4, asked.pictures.length); next++) new Image().src = address(next)
}

function count() {
  const answered = asked.pictures.filter(picture => picture.answer).length
  by("bar").max = asked.pictures.length
  by("bar").value = answered
  by("counts").textContent = `picture ${place + 1} of ${asked.pictures.length}, ${answered} answered`
}

const waiting = (from, step = 1) => { // the next picture without an answer, from there on and then from the begin
  const all = asked.pictures
  for (let i = 0; i < all.length; i++) {
    const at = (from + step * i + all.length) % all.length
    if (!all[at].answer) return at
  }
  return -1
}

function give(answer, label = null) {
  const at = place
  taken.push(at)
  store(at, answer, label)
  const next = waiting(at + 1)
  if (next < 0) tell()
  else show(next)
}

function store(at, answer, label) {
  const picture = asked.pictures[at]
  if (!unsent.has(at)) unsent.set(at, { answer: picture.answer, label: picture.label })
  Object.assign(picture, { answer, label })
  storing ??= send().finally(() => { storing = null })
}

async function send() {
  while (unsent.size) {
    const before = new Map(unsent)
    unsent.clear()
    by("progress").ariaBusy = "true"
    try {
      await ask("answer", { answers: [...before.keys()].map(at => ({ position: at, answer: asked.pictures[at].answer,
        label: asked.pictures[at].label })) })
      problem("")
    } catch (error) {
      for (const [at, old] of before) if (!unsent.has(at)) Object.assign(asked.pictures[at], old)
      problem(`${before.size === 1 ? "An answer was" : `${before.size} answers were`} not stored: ${error.message}`)
      show(Math.min(...before.keys()))
    }
  }
  by("progress").ariaBusy = "false"
}

addEventListener("pagehide", () => { if (unsent.size) send() })

function takeBack() {
  const at = taken.pop()
  if (at === undefined) return
  store(at, null, null)
  show(at)
}

// --- another class --------------------------------------------------------------------------------------------------

let marked = 0

function open() {
  by("search").hidden = false
  by("other").setAttribute("aria-expanded", "true")
  by("typed").value = ""
  find()
  by("typed").focus()
}

function close() {
  by("search").hidden = true
  by("other").setAttribute("aria-expanded", "false")
  if (document.activeElement === by("typed")) document.activeElement.blur()
}

function matches() {
  const typed = by("typed").value.trim().toLowerCase()
  const begins = [], holds = []
  for (const label of asked.classes) {
    const at = label.toLowerCase().indexOf(typed)
    if (at === 0) begins.push(label)
    else if (at > 0) holds.push(label)
  }
  return [...begins, ...holds]
}

function find() {
  const found = matches()
  marked = Math.max(0, Math.min(marked, Math.min(found.length, MOST_FOUND) - 1))
  const items = found.slice(0, MOST_FOUND).map((label, i) => {
    const item = document.createElement("li")
    item.id = `found-${i}`
    item.setAttribute("role", "option")
    item.setAttribute("aria-selected", i === marked)
    item.textContent = shown(label)
    item.addEventListener("mousedown", event => event.preventDefault())
    item.addEventListener("click", () => give("class", label))
    return item
  })
  if (found.length > MOST_FOUND || !found.length) {
    const more = document.createElement("li")
    more.className = "more"
    more.textContent = found.length ? `and ${found.length - MOST_FOUND} more: type on` : "No class is called so."
    items.push(more)
  }
  by("found").replaceChildren(...items)
  if (items[marked]?.id) {
    by("typed").setAttribute("aria-activedescendant", items[marked].id)
    items[marked].scrollIntoView({ block: "nearest" })
  }
}

by("typed").addEventListener("input", () => { marked = 0; find() })
by("typed").addEventListener("keydown", event => {
  if (event.isComposing) return
  const found = matches()
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    marked += event.key === "ArrowDown" ? 1 : -1
    find()
  } else if (event.key === "Enter" && found[marked] !== undefined) give("class", found[marked])
  else if (event.key === "Escape") { close(); by("other").focus() }
  else return
  event.preventDefault()
  event.stopPropagation()
})

// --- what it says ---------------------------------------------------------------------------------------------------

const percent = share => share === null ? "not known yet" : `${(100 * share).toFixed(1)} %`

function drawn({ value, low, high }) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg")
  svg.setAttribute("viewBox", "0 0 100 12")
  svg.setAttribute("preserveAspectRatio", "none")
  svg.setAttribute("aria-hidden", "true")
  const rect = (name, x, y, width, height) => {
    const part = document.createElementNS("http://www.w3.org/2000/svg", "rect")
    part.setAttribute("class", name)
    for (const [key, number] of Object.entries({ x, y, width, height })) part.setAttribute(key, number)
    svg.append(part)
  }
  rect("track", 0, 5, 100, 2)
  if (value !== null) {
    rect("band", 100 * low, 2, Math.max(100 * (high - low), 1), 8)
    rect("tick", 100 * value - 0.75, 0, 1.5, 12)
  }
  return svg
}

function row(found) {
  const line = document.createElement("tr"), head = document.createElement("th")
  head.scope = "row"
  head.textContent = found.title
  line.append(head)
  const range = found.value === null ? "–" : `${percent(found.low)} to ${percent(found.high)}`
  for (const cell of [percent(found.value), range, drawn(found), `${found.seen} of ${found.pictures}`]) {
    const box = document.createElement("td")
    box.append(cell)
    line.append(box)
  }
  return line
}

const paragraphs = (lines, kind = "p") => lines.map(words => Object.assign(document.createElement(kind), { textContent: words }))

async function tell() {
  await storing
  if (!by("problem").hidden) return
  try {
    const told = await ask("statement")
    by("head").replaceChildren(...paragraphs(told.head))
    by("findings").replaceChildren(...told.findings.map(row))
    by("lines").replaceChildren(...paragraphs(told.findings.map(found => found.line), "li"))
    by("caveats").replaceChildren(...paragraphs(told.caveats))
    by("asking").hidden = true
    by("told").hidden = false
    count()
    by("told-title").focus()
  } catch (error) { problem(error.message) }
}

// --- keys and buttons -----------------------------------------------------------------------------------------------

const actions = {
  first: () => give("class", asked.pictures[place].first),
  second: () => give("class", asked.pictures[place].second),
  other: () => by("search").hidden ? open() : close(),
  none: () => give("none"),
  unsure: () => give("unsure"),
  back: () => show(place - 1),
  forward: () => show(place + 1),
  undo: takeBack,
  enough: tell,
  again: () => show(Math.max(0, waiting(place))),
}
for (const [id, act] of Object.entries(actions)) by(id).addEventListener("click", act)

const keys = { 1: "first", 2: "second", 3: "other", 0: "none", "?": "unsure", ArrowLeft: "back", ArrowRight: "forward", u: "undo",
  U: "undo", Backspace: "undo" }
document.addEventListener("keydown", event => {
  if (!asked || by("asking").hidden || event.target === by("typed") || event.ctrlKey || event.metaKey || event.altKey) return
  const button = keys[event.key] && by(keys[event.key])
  if (!button || button.disabled || button.hidden || event.repeat) return
  event.preventDefault()
  button.click()
})

by("picture").addEventListener("error", async () => {
  const words = await fetch(by("picture").src).then(reply => reply.json()).then(told => told.error, () => "the page has ended")
  by("gone").textContent = `No picture: ${shown(words)}. It cannot be judged: press ?`
  by("gone").hidden = false
  by("picture").hidden = true
})

try {
  asked = await ask("audit")
  by("number").textContent = asked.audit_id
  by("run").textContent = asked.run
  const next = waiting(0)
  if (next < 0) await tell()
  else show(next)
} catch (error) { problem(error.message) }
