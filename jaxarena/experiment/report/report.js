"use strict";
// What a reader can do on the page: step through a recorded market, and sort or filter its trades.

const number = (value, digits = 0) =>
  value.toLocaleString("en", { maximumFractionDigits: digits }).replace("-", "\u2212");
const signed = (value) => (value > 0 ? "+" : "") + number(value);

function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function startReplay(root) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const [slider, play, asset, shown] = ["input", ".play", ".asset", "output"].map((s) => root.querySelector(s));
  const [svg, caption, depth, rows] = ["svg", "figcaption", "dl", "tbody"].map((s) => root.querySelector(s));
  const last = data.price.length - 1;
  let timer = null;

  // The price of the chosen asset, with a line at the step that is shown.
  function drawPrice(a) {
    const price = data.price.map((row) => row[a]);
    const low = Math.min(...price), high = Math.max(...price), span = high - low || 1;
    const points = price.map((p, t) => `${(1000 * t) / (last || 1)},${210 - (200 * (p - low)) / span}`).join(" ");
    svg.innerHTML = `<polyline points="${points}"/><line y1="0" y2="220"/>`;
    svg.setAttribute("aria-label", `Price of ${data.assets[a]}, from ${number(low, 4)} to ${number(high, 4)}`);
    caption.textContent = `${data.assets[a]}: lowest ${number(low, 4)}, highest ${number(high, 4)}`;
  }

  function bar(name, lots, most, side) {
    const value = element("dd", number(lots), { class: side });
    value.style.setProperty("--share", Math.min(Math.abs(lots) / (most || 1), 1));
    depth.append(element("dt", name), value);
  }

  // The book that an auction left, or what met the dealer.
  function drawDepth(t, a) {
    depth.replaceChildren();
    const { book } = data;
    if (!book) {
      const most = Math.max(...data.bought.map((row) => row[a]), ...data.sold.map((row) => row[a]));
      bar("lots bought", data.bought[t][a], most, "gains");
      bar("lots sold", data.sold[t][a], most, "pays");
      return;
    }
    const most = Math.max(...book.bid_lots.map((row) => row[a]), ...book.ask_lots.map((row) => row[a]));
    const at = (ticks) => (ticks ? ` at ${number(ticks, 4)}` : "");
    bar(`bids left${at(book.best_bid_ticks[t][a])}`, book.bid_lots[t][a], most, "gains");
    bar(`asks left${at(book.best_ask_ticks[t][a])}`, book.ask_lots[t][a], most, "pays");
    bar("traded", book.volume_lots[t][a], most, "");
    bar("imbalance", book.imbalance_lots[t][a], most, "");
  }

  function drawAgents(t, a) {
    const most = Math.max(...data.positions[t].map((own) => Math.abs(own[a])));
    rows.replaceChildren(...data.agents.map((agent, n) => {
      const row = element("tr"), name = element("th", agent.name, { scope: "row" });
      const position = element("td", number(data.positions[t][n][a]), { class: "position" });
      position.style.setProperty("--share", Math.abs(data.positions[t][n][a]) / (most || 1));
      const traded = data.lots[t][n][a];
      name.append(element("small", agent.decided_by.replaceAll("_", " ")));
      row.append(
        name,
        element("td", data.words[data.actions[t][n][a]]),
        element("td", signed(traded), { class: traded > 0 ? "bought" : traded < 0 ? "sold" : "" }),
        position,
        element("td", number(data.equity[t][n])),
      );
      return row;
    }));
  }

  function show() {
    const t = Number(slider.value), a = Number(asset.value), x = (1000 * t) / (last || 1);
    const date = data.dates ? ` · ${data.dates[t]}` : "";
    shown.textContent = `step ${t + 1} of ${last + 1}${date} · price ${number(data.price[t][a], 4)}`;
    slider.setAttribute("aria-valuetext", shown.textContent);
    for (const end of ["x1", "x2"]) svg.querySelector("line").setAttribute(end, x);
    drawDepth(t, a);
    drawAgents(t, a);
  }

  function pause() {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
    play.setAttribute("aria-pressed", "false");
  }

  function advance() {
    if (Number(slider.value) >= last) return pause();
    slider.value = Number(slider.value) + 1;
    show();
  }

  play.addEventListener("click", () => {
    if (timer) return pause();
    if (Number(slider.value) >= last) slider.value = 0;
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
    timer = setInterval(advance, 120);
  });
  slider.addEventListener("input", () => { pause(); show(); });
  asset.addEventListener("change", () => { drawPrice(Number(asset.value)); show(); });
  drawPrice(0);
  show();
}

function startTrades(root) {
  const body = root.querySelector("tbody"), heads = [...root.querySelectorAll("th")];
  const plain = (cell) => cell.textContent.replaceAll(",", "").replace("\u2212", "-");
  root.querySelector(".role").addEventListener("change", (event) => {
    for (const row of body.rows) row.hidden = event.target.value !== "" && row.dataset.role !== event.target.value;
  });
  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    const order = head.classList.contains("number") ? (x, y) => x - y : (x, y) => x.localeCompare(y);
    const sorted = [...body.rows].sort((x, y) => order(plain(x.cells[column]), plain(y.cells[column])));
    body.append(...(down ? sorted.reverse() : sorted));
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
  }));
}

document.querySelectorAll(".replay").forEach(startReplay);
document.querySelectorAll(".trades").forEach(startTrades);
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
