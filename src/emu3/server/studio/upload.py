"""A place to drop a picture or a clip: it travels as a data URL, as over the API."""

from __future__ import annotations

from typing import Any

TEMPLATE = """
<div class="drop ${value ? 'full' : ''}">
  <label>
    <input type="file" accept="${accept}" aria-label="${label}">
    ${value && value.startsWith('data:video') ? '<video muted controls src="' + value + '"></video>'
      : value && value.startsWith('data:image') ? '<img alt="what was dropped" src="' + value + '">'
      : '<span>' + label + '</span>'}
  </label>
  ${value ? '<button class="away" aria-label="take it away">×</button>' : ''}
  <p class="note problem" role="alert"></p>
</div>
"""

SCRIPT = """
const read = file => {
  if (!file) return;
  if (file.size * 4 / 3 > props.most) {
    element.querySelector('.note').textContent = 'too large: at most '
      + Math.floor(props.most * 3 / 4 / 1048576) + ' MiB (limit max_body)';
    return;
  }
  const reader = new FileReader();
  reader.onload = () => { props.value = reader.result; trigger('upload'); };
  reader.readAsDataURL(file);
};
element.addEventListener('change', event => {
  event.stopPropagation();
  if (event.target.files) read(event.target.files[0]);
});
element.addEventListener('dragover', event => event.preventDefault());
element.addEventListener('drop', event => {
  event.preventDefault();
  read(event.dataTransfer.files[0]);
});
element.addEventListener('click', event => {
  if (!event.target.closest('.away')) return;
  event.preventDefault();
  props.value = '';
  trigger('clear');
});
"""

PICTURES = "image/png,image/jpeg,image/webp,image/gif"
CLIPS = "video/mp4,video/webm"


def drop(label: str, most: int, name: str, clips: bool = False) -> Any:
    """The component; its value is a data URL of at most `most` bytes, or empty."""
    import gradio as gr

    return gr.HTML(
        "",
        html_template=TEMPLATE,
        js_on_load=SCRIPT,
        elem_id=name,
        label=label,
        accept=f"{PICTURES},{CLIPS}" if clips else PICTURES,
        most=most,
    )
