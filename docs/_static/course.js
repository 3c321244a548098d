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

function openAllAnswers() {
  for (const answer of document.querySelectorAll("details")) answer.open = true;
}

document.addEventListener("DOMContentLoaded", coverPredictions);
window.addEventListener("beforeprint", openAllAnswers);
