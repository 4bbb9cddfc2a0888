"""Settings written back as a file: what is not the default, and no secret."""

from __future__ import annotations

from pathlib import Path

from worker import config


def test_a_written_file_gives_the_same_settings(tmp_path: Path) -> None:
    keys = {
        "infer.backend": "local",
        "model.directory": '/a "quoted" folder',
        "ingest.formats": ["jpeg", "png"],
        "limits.inference_ratio": 0.25,
        "kafka.sasl_without_tls": True,
    }
    settings = config.load(flags=keys).settings
    assert set(config.changed(settings)) == set(keys)
    (tmp_path / "file.toml").write_text(config.to_toml(settings))
    assert config.flat(config.load(tmp_path / "file.toml").settings) == config.flat(settings)


def test_no_secret_is_written() -> None:
    secret = {"HEADRACE_KAFKA__SASL_PASSWORD": "hidden", "HEADRACE_KAFKA__SASL_MECHANISM": "PLAIN"}
    environment = {**secret, "HEADRACE_KAFKA__SASL_USERNAME": "worker", "HEADRACE_KAFKA__TLS": "true"}
    text = config.to_toml(config.load(environment=environment).settings)
    assert "worker" in text
    assert "password" not in text
    assert "hidden" not in text
