"""A file upload whose value is a data URL, so that no file passes through Gradio's own upload."""

from __future__ import annotations

from typing import Any

TEMPLATE = """
<div class="upload ${value ? 'has-file' : ''}">
  <label>
    <input type="file" accept="${accept}" aria-label="${label}">
    ${value && value.startsWith('data:video') ? '<video muted controls src="' + value + '"></video>'
      : value && value.startsWith('data:image') ? '<img alt="uploaded file" src="' + value + '">'
      : '<span>' + label + '</span>'}
  </label>
  ${value ? '<button class="remove" aria-label="remove the file">×</button>' : ''}
  <p class="status error" role="alert"></p>
</div>
"""

SCRIPT = """
const read = file => {
  if (!file) return;
  if (file.size * 4 / 3 > props.maxBytes) {  // Base64 takes 4 bytes for 3
    element.querySelector('.status').textContent = 'file too large: the limit is '
      + Math.floor(props.maxBytes * 3 / 4 / 1048576) + ' MiB (limit max_body)';
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
  if (!event.target.closest('.remove')) return;
  event.preventDefault();
  props.value = '';
  trigger('clear');
});
"""

IMAGE_TYPES = "image/png,image/jpeg,image/webp,image/gif"
VIDEO_TYPES = "video/mp4,video/webm"


def upload_field(label: str, max_bytes: int, elem_id: str, *, allow_videos: bool = False) -> Any:
    """Return a component for one file; its value is a data URL of at most `max_bytes`, or ""."""
    import gradio as gr

    return gr.HTML(
        "",
        html_template=TEMPLATE,
        js_on_load=SCRIPT,
        elem_id=elem_id,
        label=label,
        accept=f"{IMAGE_TYPES},{VIDEO_TYPES}" if allow_videos else IMAGE_TYPES,
        maxBytes=max_bytes,
    )
