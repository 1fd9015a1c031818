"""Judges the Kubernetes manifests without a cluster.

Usage: manifests.py CHART MANIFESTS [--write]

Renders the chart, which keeps to a few constructs of its language, with its values and with
everything switched on; validates each object against the schemas of Kubernetes (kubernetes-validate),
and compares the first rendering with the manifests. Prints `objects=N`. `--write` writes them instead.
"""

import json
import re
import sys
from pathlib import Path

import kubernetes_validate
import yaml

VERSION = "1.33"
# Objects of operators, for which Kubernetes has no schema.
FOREIGN = {"ServiceMonitor": {"selector", "endpoints"}}


def look_up(path, scope):
    value = scope
    for key in path.lstrip(".").split("."):
        assert key in value, f"nothing is named {path}"
        value = value[key]
    return value


def expression(text, scope):
    words = [part.strip() for part in text.split("|")]
    value = look_up(words[0].removeprefix("toYaml "), scope)
    if words[0].startswith("toYaml "):
        value = yaml.safe_dump(value, sort_keys=False)
    if words[-1].startswith("nindent "):
        assert len(words) == 2, text
        indent = " " * int(words[1].split()[1])
        return "\n" + "\n".join((indent + line).rstrip() for line in value.rstrip().splitlines())
    assert words[1:] in ([], ["quote"]), text
    return json.dumps(str(value), ensure_ascii=False) if words[1:] else str(value)


def render(template, scope):
    text = template.read_text()
    condition = re.fullmatch(r"\{\{- if (\S+) \}\}\n(.*)\{\{- end \}\}\n", text, re.S)
    if condition:
        if not look_up(condition[1], scope):
            return ""
        text = condition[2]
    text = re.sub(r"\{\{ (.*?) \}\}", lambda found: expression(found[1], scope), text)
    assert "{{" not in text, f"{template.name} has a construct that this renderer does not know"
    return text


def rendered(chart, values):
    scope = {"Values": values, "Release": {"Name": "ringhold"}}
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    scope["Chart"] = {"AppVersion": about["appVersion"]}
    texts = [render(template, scope) for template in sorted((chart / "templates").iterdir())]
    return "---\n".join(text for text in texts if text)


def judge(text):
    count = 0
    for thing in yaml.safe_load_all(text):
        kind = thing["kind"]
        if kind in FOREIGN:
            assert set(thing["spec"]) == FOREIGN[kind], thing
        else:
            kubernetes_validate.validate(thing, VERSION, strict=True)
        count += 1
    return count


def main():
    chart, manifests = Path(sys.argv[1]), Path(sys.argv[2])
    values = yaml.safe_load((chart / "values.yaml").read_text())
    plain = rendered(chart, values)
    head = f"# The chart of tuning/helm, rendered with its values: {Path(__file__).name} --write. Edit that.\n"
    if "--write" in sys.argv:
        manifests.write_text(head + plain)
        return
    assert manifests.read_text() == head + plain, "the manifests are not those of the chart: --write"
    for section in ("serviceMonitor", "autoscaling"):
        values[section]["enabled"] = True
    print(f"objects={judge(plain) + judge(rendered(chart, values))}")


main()
