"""A chat model some of whose settings the config of a call sets, under names that its user chose."""

from __future__ import annotations

from typing import Any

from langchain_core.runnables import ConfigurableField, ConfigurableFieldSpec
from langchain_core.runnables.configurable import RunnableConfigurableFields, make_options_spec
from langchain_core.runnables.utils import AnyConfigurableField, Input, Output, get_unique_config_specs
from pydantic.fields import FieldInfo

from specreason_graph.config import SpecReasonConfig
from specreason_graph.langchain.call_settings import ALIASES


def field_of(kind: type[Any], name: str) -> FieldInfo | None:
    """The field of a chat model or setting of the loop that has a name; None where there is none."""
    setting = SpecReasonConfig.model_fields.get(ALIASES.get(name, name))
    found: FieldInfo | None = kind.model_fields.get(name, setting)
    return found


class ConfigurableChat(RunnableConfigurableFields[Input, Output]):
    """LangChain's runnable with configurable fields, which knows fields of the model and not the loop's settings."""

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """What may be configured."""
        own = [self._spec(name, field) for name, field in self.fields.items()]
        return list(get_unique_config_specs([*own, *self.default.config_specs]))

    def _spec(self, name: str, field: AnyConfigurableField) -> ConfigurableFieldSpec:
        known = field_of(type(self.default), name)
        description = known.description if known else None
        if not isinstance(field, ConfigurableField):
            return make_options_spec(field, description)
        chat: Any = self.default
        return ConfigurableFieldSpec(
            id=field.id, name=field.name, description=field.description or description,
            annotation=field.annotation or (known.annotation if known else None),
            default=getattr(chat if name in type(chat).model_fields else chat.settings, ALIASES.get(name, name)),
            is_shared=field.is_shared,
        )  # fmt: skip
