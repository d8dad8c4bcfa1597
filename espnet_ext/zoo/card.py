"""The README.md of a published model: what it is, how to call it, what it measured."""

from collections.abc import Mapping
from typing import Any

#: What the card tells of a config, and in which words.
_FACTS = ("frontend", "encoder", "pooling", "projector", "loss", "spk_num", "sample_rate")


def model_card(
    repo: str, config: Mapping[str, Any], results: str = "", license_name: str = "", digest: str = ""
) -> str:
    """Markdown with Hugging Face's front matter.

    ``repo`` is the tag that loads the model, ``results`` the text of ``RESULTS.md``, ``license_name`` an SPDX name in
    lower case, ``digest`` the SHA-256 of the weights.
    """
    front = ["---", "tags:", "- espnet", "- audio", "- speaker-verification", "library_name: espnet_ext"]
    front += [f"license: {license_name}"] if license_name else []
    facts = "\n".join(f"| {key} | {config[key]} |" for key in _FACTS if config.get(key) not in (None, ""))
    body = f"""
# {repo}

A speaker verification model, trained with [ESPnet](https://github.com/espnet/espnet) and espnet_ext.

```python
from espnet_ext.inference.spk import SpeakerEmbedder

embedder = SpeakerEmbedder.from_pretrained("{repo}")
vector = embedder("speech.wav")                  # any sampling rate and channel count
print(embedder.verify("one.wav", "two.wav"))     # score, log-likelihood ratio, same speaker or not
```

```bash
espnet_ext verify --model {repo} one.wav two.wav
```

| part | value |
| - | - |
{facts}
"""
    body += f"\nSHA-256 of the weights: `{digest}`\n" if digest else ""
    body += (
        f"\n## Results\n\n{_deeper(results)}\n" if results.strip() else "\nNo results were packed with this model.\n"
    )
    return "\n".join(front) + "\n---\n" + body


def _deeper(markdown: str) -> str:
    """Headings two levels lower, so that they stand under the card's own; code blocks are left alone."""
    lines, in_code = [], False
    for line in markdown.strip().splitlines():
        in_code ^= line.startswith("```")
        lines.append(f"##{line}" if line.startswith("#") and not in_code else line)
    return "\n".join(lines)
