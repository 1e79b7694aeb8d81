/* Sorting, copying and the choice of light or dark. Without it the page still shows everything. */
"use strict";

document.documentElement.classList.add("has-script");

/* A cell without a number behind it comes last, whichever way the table is sorted. */
function compare(a, b, direction) {
  if (a === "" || b === "") return (a === "") - (b === "");
  const [x, y] = [Number(a), Number(b)];
  return direction * (Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y);
}

function sort(button) {
  const head = button.closest("th");
  const table = head.closest("table");
  const column = head.cellIndex;
  const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
  const value = (row) => row.cells[column].dataset.value;
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => compare(value(a), value(b), direction));
  table.tBodies[0].append(...rows);
}

/* RFC 4180: fields with a comma, a quote or a line break stand in quotes. */
function csv(table) {
  const field = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const lines = [[...table.tHead.rows[0].cells].map((cell) => cell.dataset.key)];
  for (const row of table.tBodies[0].rows) lines.push([...row.cells].map((cell) => cell.dataset.value));
  return lines.map((line) => line.map(field).join(",") + "\r\n").join("");
}

function json(number) {
  const profiles = JSON.parse(document.getElementById("data").textContent);
  return JSON.stringify(profiles[number], null, 2) + "\n";
}

async function copy(button) {
  const kind = button.dataset.copy;
  const text = kind === "csv" ? csv(button.closest(".table").querySelector("table")) : json(button.dataset.profile);
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied as ${kind.toUpperCase()}.`);
  } catch {
    byHand(text, kind);
  }
}

function byHand(text, kind) {
  const dialog = document.getElementById("manual");
  const area = dialog.querySelector("textarea");
  const link = dialog.querySelector("a");
  area.value = text;
  link.href = `data:${kind === "csv" ? "text/csv" : "application/json"};charset=utf-8,${encodeURIComponent(text)}`;
  link.download = `profile.${kind}`;
  dialog.showModal();
  area.focus();
  area.select();
}

let silence;
function say(text) {
  const said = document.getElementById("said");
  said.textContent = text;
  clearTimeout(silence);
  silence = setTimeout(() => (said.textContent = ""), 2500);
}

const theme = document.getElementById("theme");
const systemDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : systemDark.matches;
}

function nameTheme() {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Show in ${isDark() ? "light" : "dark"} colours`);
}

theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  nameTheme();
});
systemDark.addEventListener("change", nameTheme);
nameTheme();

document.querySelector("#manual button").addEventListener("click", (event) => event.target.closest("dialog").close());
document.querySelectorAll("thead button").forEach((button) => button.addEventListener("click", () => sort(button)));
document.querySelectorAll("button.copy").forEach((button) => button.addEventListener("click", () => copy(button)));
