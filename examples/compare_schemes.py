"""The scale of every weight under two initialisations, side by side, without making a weight.

python examples/compare_schemes.py
"""

from isogloss.build import plan_model
from isogloss.init.schemes import LinguaBeforeConfig, LinguaConfig
from isogloss.recipe import load_recipe

model = load_recipe("stdlib-small").with_vocabulary(2048).model
before, after = (plan_model(model, scheme).plan for scheme in (LinguaBeforeConfig(), LinguaConfig()))
for name, entry in after.items():
    if name.startswith(("embedding", "layers.0.", "head")):
        print(f"{name:34} {entry.site.role:14} {before[name].rule.text:22} -> {entry.rule.text}")
