"""Models loaded from folders, and what they compute."""

from __future__ import annotations

import torch
import transformers
from zoo import FAMILIES


def loaded(family, folder):
    """The model in a folder, which must have exactly the tensors that its config wants."""
    cls = getattr(transformers, FAMILIES[family].model)
    model, info = cls.from_pretrained(folder, output_loading_info=True, dtype="auto")
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (kind, info[kind])
    with torch.no_grad():  # a file's tensors lie at any address, and sums depend on how memory is aligned
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.data.clone()
    return model.eval()


def outputs(family, model):
    """All logits, as one vector, for the family's input."""
    given = FAMILIES[family].inputs(torch)
    given = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in given.items()}
    with torch.no_grad():
        found = model(**given)
    names = [n for n in ("logits", "logits_per_image", "text_embeds", "image_embeds") if n in found]
    assert names
    return torch.cat([found[n].double().flatten() for n in names])


def continued(family, model):
    """Three more tokens."""
    given = FAMILIES[family].inputs(torch)
    length = given["input_ids"].shape[1]
    found = model.generate(**given, min_new_tokens=3, max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert found.shape[1] == length + 3
    return found
