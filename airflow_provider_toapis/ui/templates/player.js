"use strict";

// Show the text below an image that cannot be loaded.
addEventListener("error", ({target}) => {
  if (target instanceof HTMLImageElement) target.remove();
}, true);

// Airflow shows the pages in a frame that cannot replace Airflow's page and, before Airflow 3.3, cannot start downloads.
// Such links are opened by the page around the frame.
addEventListener("click", (event) => {
  const link = event.target.closest("a[target=_top], a[download]");
  if (!link || parent === window) return;
  event.preventDefault();
  const outside = parent.document.importNode(link);
  outside.href = link.href;
  parent.document.body.append(outside);
  outside.click();
  outside.remove();
});

// Play one video at a time.
addEventListener("play", ({target}) => {
  for (const video of document.querySelectorAll("video")) if (video !== target) video.pause();
}, true);

// Send a review, and show what was recorded.
addEventListener("submit", async (event) => {
  const form = event.target;
  if (!form.matches("form.review")) return;
  event.preventDefault();
  const decision = event.submitter?.value ?? "approve";
  const buttons = form.querySelectorAll("button"), output = form.querySelector("output");
  for (const button of buttons) button.disabled = true;
  const body = {key: form.dataset.key, video_id: form.dataset.videoId, decision, comment: form.elements.comment.value};
  try {
    const headers = {"Content-Type": "application/json"};
    const response = await fetch(form.action, {method: "POST", headers, body: JSON.stringify(body)});
    const {detail} = await response.json().catch(() => ({}));
    const done = decision === "redo" ? "Redo requested. The next run makes another video." : "Approved.";
    output.textContent = response.ok ? done : typeof detail === "string" ? detail : `Not saved (${response.status}).`;
  } catch {
    output.textContent = "Not saved: the API server cannot be reached.";
  }
  for (const button of buttons) button.disabled = false;
});

// Show the progress of videos in progress.
async function showProgress() {
  const elements = document.querySelectorAll("[data-progress]");
  for (const element of elements) {
    const response = await fetch(element.dataset.progress);
    const {status, percent} = response.ok ? await response.json() : {};
    if (status) element.textContent = percent === null ? status : `${status}, ${Math.round(percent)} %`;
  }
  // A list with many videos is looked up once, because each look-up is a request to the service.
  if (!document.hidden && elements.length === 1) setTimeout(showProgress, 15000);
}
addEventListener("DOMContentLoaded", showProgress);
