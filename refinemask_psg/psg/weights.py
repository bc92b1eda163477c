"""Start the relation head from a pretrained BERT in a local folder, or on the hub where the user names one."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError, needing
from refinemask_psg.psg.config import Relations
from refinemask_psg.psg.relation_head import RelationHead


def like_pretrained(settings: Relations) -> Relations:
    """The settings with the sizes of the BERT that they name."""
    if settings.head != "bert" or not settings.bert:
        return settings
    found = _read("AutoConfig", settings.bert)
    try:
        if found.hidden_act != "gelu" or found.num_hidden_layers < settings.layers:
            problem = f"{found.num_hidden_layers} layers with {found.hidden_act}"
            raise UserError(f"--relations.bert {settings.bert}: has {problem}; {settings.layers} with gelu are needed")
        return replace(
            settings,
            hidden=found.hidden_size,
            attention_heads=found.num_attention_heads,
            intermediate=found.intermediate_size,
            positions=found.max_position_embeddings,
            token_types=found.type_vocab_size,
            norm_epsilon=found.layer_norm_eps,
        )
    except AttributeError as error:
        raise UserError(f"--relations.bert {settings.bert}: is no BERT ({error}); name one of its family") from error


def load_pretrained(head: RelationHead, settings: Relations) -> None:
    """The first layers of the BERT that the settings name, into the head."""
    if head.bert is None or not settings.bert:
        return
    whole, wanted = _read("AutoModel", settings.bert).state_dict(), head.bert.state_dict()
    missing = [name for name in wanted if name not in whole or whole[name].shape != wanted[name].shape]
    if missing:
        problem = f"lacks {missing[0]} in the shape {list(wanted[missing[0]].shape)}"
        raise UserError(f"--relations.bert {settings.bert}: {problem}; name a checkpoint of BERT's family")
    head.bert.load_state_dict({name: whole[name] for name in wanted}, strict=True)


def _read(kind: Literal["AutoConfig", "AutoModel"], source: str) -> Any:
    """Through transformers, without its progress bars; the hub is asked only for what is no folder."""
    with needing(f"--relations.bert {source}", "transformers"):
        import transformers
    local = Path(source).is_dir()
    loud = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        return getattr(transformers, kind).from_pretrained(source, local_files_only=local)
    except (OSError, ValueError) as error:
        problem = str(error).strip().splitlines()[0]
        kind_of = "is not a folder with a BERT of transformers" if local else "is neither a folder nor on the hub"
        raise UserError(f"--relations.bert {source}: {kind_of} ({problem})") from error
    finally:
        transformers.logging.set_verbosity(loud)
