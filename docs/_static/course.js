// A Predict box asks for an answer before one reads on, so the output below it waits for a click.
// Without this script, and on paper, everything is shown.
function coverPredictions() {
  for (const box of document.querySelectorAll("blockquote")) {
    if (!box.textContent.trim().startsWith("Predict")) continue;
    let cell = box.nextElementSibling;
    while (cell && !cell.classList.contains("cell")) cell = cell.nextElementSibling;
    const output = cell && cell.querySelector(".cell_output");
    if (!output || output.hidden) continue;
    output.hidden = true;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "reveal";
    button.textContent = "I have my answer: show what comes out";
    button.addEventListener("click", () => {
      output.hidden = false;
      output.tabIndex = -1;
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
