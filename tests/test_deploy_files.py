"""The files in deploy/ against a real server's metrics, and against the checkers of Prometheus and systemd.

promtool (Debian: prometheus) and systemd-analyze (systemd) are used if they are installed. With
FASTTAIL_NEED_PROMTOOL=1 and FASTTAIL_NEED_SYSTEMD=1 their absence is a failure.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from all_metrics import everything
from lines import event, plain
from prometheus_client.parser import text_string_to_metric_families
from running import command, hour_file, serve, wait_for

HERE = Path(__file__).resolve().parent
DEPLOY = HERE.parent / "deploy"
RULES = DEPLOY / "prometheus" / "fasttail.rules.yml"
RULES_TEST = HERE / "fasttail_rules_test.yml"
SCRAPE = DEPLOY / "prometheus" / "prometheus.yml"
DASHBOARD = DEPLOY / "grafana" / "fasttail.json"
OPERATIONS = HERE.parent / "docs" / "operations.md"
UNITS = (DEPLOY / "systemd" / "fasttail.service", DEPLOY / "systemd" / "fasttail.socket")

# Absent while a server is idle: no batch runs, and memory will not reach the limit.
SOMETIMES = {"fasttail_batch_running_seconds", "fasttail_memory_left_seconds"}
WITH_NATS = ("fasttail_nats_", "fasttail_relay_")


def tool(name: str, package: str, need: str) -> str:
    path = shutil.which(name)
    if path is None:
        text = f"{name} is not installed (Debian: apt-get install {package})"
        if os.environ.get(need) == "1":
            pytest.fail(f"{text}, and {need}=1")
        pytest.skip(text)
    return path


@pytest.fixture(scope="session")
def promtool() -> str:
    return tool("promtool", "prometheus", "FASTTAIL_NEED_PROMTOOL")


@pytest.fixture(scope="session")
def systemd_analyze() -> str:
    return tool("systemd-analyze", "systemd", "FASTTAIL_NEED_SYSTEMD")


def check(*words: str | Path, cwd: Path | None = None, text: str | None = None) -> str:
    """Run a command that must succeed, and return its output."""
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, input=text, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# ---- metrics in use


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def targets() -> list[tuple[str, dict[str, Any]]]:
    """Return (panel title, target) of the dashboard."""
    dashboard = json.loads(DASHBOARD.read_text())
    return [(panel["title"], target) for panel in dashboard["panels"] for target in panel.get("targets", [])]


def expressions() -> dict[str, str]:
    """Return every PromQL expression in deploy/, keyed by its location."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules()}
    found |= {f"panel {title} {target['refId']}": target["expr"] for title, target in targets()}
    for note in json.loads(DASHBOARD.read_text())["annotations"]["list"]:
        found[f"annotation {note['name']}"] = note["expr"]
    return found


def types(text: str) -> dict[str, str]:
    """Return the metric type of each sample name."""
    return {
        sample.name: family.type
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


COUNTING = ("rate", "increase", "irate")
USE = re.compile(r"(?:(\w+)\()?\b(fasttail_\w+)(?:\{[^}]*\})?(\[[^\]]*\])?")


def misuses(expression: str, known: dict[str, str]) -> list[str]:
    """Return names that no server exports, and functions that do not suit the metric's type."""
    said = []
    for function, name, window in USE.findall(expression):
        kind = known.get(name)
        if kind is None:
            said.append(f"{name} is no metric")
        elif window and (function in COUNTING) == (kind == "gauge"):
            said.append(f"{function} of {name}, a {kind}")
        elif not window and kind == "histogram":
            said.append(f"{name}, a histogram, without rate")
    quantiles = re.findall(r"histogram_quantile\([\d.]+, sum by \([^)]*\ble\) \(rate\(\w+_bucket", expression)
    if len(quantiles) != len(re.findall(r"histogram_quantile|_bucket\b", expression)) / 2:
        said.append("a quantile not of buckets summed by le")
    return said


@pytest.mark.parametrize("where", expressions())
def test_every_expression_asks_for_what_there_is(where: str) -> None:
    assert misuses(expressions()[where], types(everything().decode())) == []


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("fasttail_line_total > 0", "fasttail_line_total is no metric"),
        ("rate(fasttail_clients[5m])", "rate of fasttail_clients, a gauge"),
        ('increase(fasttail_rss_bytes{x=~"a"}[$__rate_interval])', "increase of fasttail_rss_bytes, a gauge"),
        ("deriv(fasttail_lines_total[5m])", "deriv of fasttail_lines_total, a counter"),
        ("fasttail_lag_seconds > 1", "fasttail_lag_seconds is no metric"),
        ("fasttail_lag_seconds_bucket > 1", "without rate"),
        ("histogram_quantile(0.9, rate(fasttail_lag_seconds_sum[5m]))", "a quantile not of buckets"),
        ("histogram_quantile(0.9, sum by (job) (rate(fasttail_lag_seconds_bucket[5m])))", "summed by le"),
    ],
)  # fmt: skip
def test_a_misuse_is_seen(expression: str, fault: str) -> None:
    assert any(fault in each for each in misuses(expression, types(everything().decode())))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return a real server's /metrics, with everything that settings can add."""
    folder = tmp_path_factory.mktemp("served")
    path = hour_file(folder / "data", "streaming", "20260505", 9)
    path.touch()
    options = ["--state-dir", folder / "state", "--alert-webhook", "http://127.0.0.1:9/"]
    options += ["--memory-limit-mb", 4000, "--memory-warmup-s", 0, "--memory-window-s", 1]
    with serve(folder / "data", *options) as server:
        client = server.client()
        path.write_bytes(plain(*(event(oid=oid) for oid in range(10))))
        client.wait_orders(10)

        def slope() -> str:
            text = server.get("/metrics")[1]
            return text if "fasttail_rss_slope_low_bytes_per_second" in text else ""

        yield wait_for("the slope", slope)


def test_a_real_server_has_what_is_asked_for(text: str) -> None:
    real, documented = types(text), types(everything().decode())
    asked = {name for expression in expressions().values() for _, name, _ in USE.findall(expression)}
    assert {name for name in asked - set(real) if not name.startswith(WITH_NATS)} <= SOMETIMES
    assert real.items() <= documented.items()


def test_promtool_has_nothing_to_say_about_the_metrics(promtool: str, text: str) -> None:
    for each in (text, everything().decode()):
        assert check(promtool, "check", "metrics", text=each) == ""


def test_promtool_knows_complaints(promtool: str) -> None:
    """promtool reports a wrong metric and fails, which the test above relies on."""
    done = subprocess.run(
        [promtool, "check", "metrics"],
        input="# HELP x_total A gauge.\n# TYPE x_total gauge\nx_total 1\n", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    assert "x_total" in done.stdout + done.stderr


# ---- Prometheus


def test_promtool_takes_the_rules(promtool: str) -> None:
    said = check(promtool, "check", "rules", RULES)
    assert f"{len(rules())} rules found" in said


def test_each_alert_fires_where_it_should(promtool: str) -> None:
    check(promtool, "test", "rules", RULES_TEST.name, cwd=HERE)


def test_each_alert_has_its_test_and_says_what_to_do() -> None:
    tests = yaml.safe_load(RULES_TEST.read_text())["tests"]
    fires = {
        test["name"]
        for test in tests
        if any(each["exp_samples"] for each in test.get("promql_expr_test", []))
    }
    alerts = {rule["alert"] for rule in rules()}
    assert fires == alerts
    assert set(re.findall(r"`(Fasttail\w+)`", OPERATIONS.read_text())) == alerts
    healthy = {series["series"].split("{")[0] for test in tests[:1] for series in test["input_series"]}
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert "instance }}" in rule["annotations"]["summary"]
        assert len(rule["annotations"]["description"]) > 60
        names = {name for _, name, _ in USE.findall(rule["expr"])}
        assert names <= healthy, f"the healthy series leave out {names - healthy}"


def test_promtool_takes_the_scrape_configuration(promtool: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    shutil.copy(RULES, tmp_path)
    config = SCRAPE.read_text()
    assert config.count("/etc/prometheus/fasttail.token") == 1
    (tmp_path / SCRAPE.name).write_text(config.replace("/etc/prometheus/fasttail.token", str(token)))
    check(promtool, "check", "config", tmp_path / SCRAPE.name)
    jobs = {job["job_name"] for job in yaml.safe_load(config)["scrape_configs"]}
    assert set(re.findall(r'job="(\w+)"', RULES.read_text())) == jobs


# ---- Grafana


def test_promtool_takes_the_dashboards_expressions(promtool: str, tmp_path: Path) -> None:
    found = [expr for where, expr in expressions().items() if not where.startswith("alert ")]
    exprs = [expr.replace("$__rate_interval", "1m") for expr in found]
    group = {"name": "g", "rules": [{"record": f"r:{n}", "expr": expr} for n, expr in enumerate(exprs)]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [group]}))
    assert f"{len(exprs)} rules found" in check(promtool, "check", "rules", tmp_path / "rules.yml")


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert "fasttail_build_info" in variables["instance"]["definition"]
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        grid = panel["gridPos"]
        assert grid["x"] + grid["w"] <= 24
        place = {
            (x, y)
            for x in range(grid["x"], grid["x"] + grid["w"])
            for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not place & taken, panel["title"]
        taken |= place
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
    labels = {
        label
        for family in text_string_to_metric_families(everything().decode())
        for sample in family.samples
        for label in sample.labels
    }
    for title, target in targets():
        assert target["datasource"]["uid"] == "${datasource}"
        assert 'instance=~"$instance"' in target["expr"], title
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= labels | {"instance"}, title


# ---- systemd


def settings(unit: Path) -> dict[str, list[str]]:
    """Return the unit's settings, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Create a folder with the units, which start the installed program."""
    program = tmp_path / "fasttail"
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
    program.chmod(0o755)
    for unit in UNITS:
        text = unit.read_text().replace("/opt/fasttail/bin/fasttail", str(program))
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def test_systemd_takes_the_units(systemd_analyze: str, installed: Path) -> None:
    said = check(systemd_analyze, "verify", "--man=no", *(installed / unit.name for unit in UNITS))
    assert "fasttail" not in said, said  # it may complain about other units of this machine


def test_little_is_exposed(systemd_analyze: str) -> None:
    said = check(systemd_analyze, "security", "--offline=true", "--no-pager", UNITS[0])
    found = re.search(r"Overall exposure level for fasttail.service: ([\d.]+)", said)
    assert found is not None, said
    assert float(found[1]) <= 1.2, said


def test_the_unit_starts_a_server_with_settings_that_there_are(tmp_path: Path) -> None:
    unit = settings(UNITS[0])
    assert unit["Type"] == ["notify"]
    env = {**os.environ, **dict(each.split("=", 1) for each in unit["Environment"])}
    env["FASTTAIL_STATE_DIR"] = env["FASTTAIL_STATE_DIR"].replace("%S", str(tmp_path))
    words = shlex.split(unit["ExecStart"][0])[1:]
    done = subprocess.run(
        [*command(), *words, "--print-config"], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path}/fasttail" in done.stdout
    assert unit["StateDirectory"] == ["fasttail"]
    assert words[1] in unit["BindReadOnlyPaths"], "the data folder is hidden from the service"
