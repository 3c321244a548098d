// A Predict box asks for an answer before one reads on: the output below it, and the words about the output, wait for a
// click. Without this script, and on paper, everything is shown.
function isPrediction(element) {
  return element.matches("blockquote") && element.textContent.trim().startsWith("Predict");
}

function coverPredictions() {
  for (const box of [...document.querySelectorAll("blockquote")].filter(isPrediction)) {
    let cell = box.nextElementSibling;
    while (cell && !cell.matches(".cell, blockquote, section")) cell = cell.nextElementSibling;
    const output = cell && cell.querySelector(".cell_output");
    if (!output) continue;

    const covered = [output];
    let words = cell.nextElementSibling;
    while (words && !words.matches(".cell, section") && !isPrediction(words)) {
      covered.push(words);
      words = words.nextElementSibling;
    }
    for (const element of covered) {
      element.classList.add("covered");
      element.hidden = true;
    }

    const button = document.createElement("button");
    button.type = "button";
    button.className = "reveal";
    button.textContent = "I have my answer: show what comes out";
    button.addEventListener("click", () => {
      for (const element of covered) element.hidden = false;
      output.tabIndex = -1; // so that the keyboard goes on from here
      output.focus();
      button.remove();
    });
    output.before(button);
  }
}

// The error index gets a field that narrows its tables of contents to the entries that hold all words typed.
function addSymptomFilter() {
  const contents = document.querySelector("section#contents");
  if (!contents) return;
  const rows = [...contents.querySelectorAll("tbody tr")].map(row => {
    const target = document.getElementById(row.querySelector("a").hash.slice(1));
    const entry = target && (target.closest("section") || target);
    return { row, words: (row.textContent + " " + (entry ? entry.textContent : "")).toLowerCase() };
  });

  const label = document.createElement("label");
  label.className = "symptom-filter";
  label.textContent = "What do you see? ";
  const field = document.createElement("input");
  field.type = "search";
  field.placeholder = "nan, 1.46, always the same class …";
  label.append(field);
  const count = document.createElement("p");
  count.setAttribute("role", "status");
  contents.querySelector("h2").after(label, count);

  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, words } of rows) {
      row.hidden = !wanted.every(word => words.includes(word));
      if (!row.hidden) shown += 1;
    }
    for (const table of contents.querySelectorAll("table")) {
      const empty = !table.querySelector("tbody tr:not([hidden])");
      const whole = table.closest(".pst-scrollable-table-container") || table;
      whole.hidden = empty;
      whole.previousElementSibling.hidden = empty; // the name of the group
    }
    count.textContent = wanted.length ? `${shown} of ${rows.length} entries` : "";
  });
}

function openAllAnswers() {
  for (const answer of document.querySelectorAll("details")) answer.open = true;
}

// The search fetches excerpts of the pages that it found, which browsers forbid for files on the disk.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

document.addEventListener("DOMContentLoaded", coverPredictions);
document.addEventListener("DOMContentLoaded", addSymptomFilter);
window.addEventListener("beforeprint", openAllAnswers);
