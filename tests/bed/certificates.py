"""A certificate authority for the control plane of tests: keys and certificates, made by openssl."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
_DAYS = ["-days", "365"]


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, as PEM files."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """Signs certificates of servers and of users; `folder` holds everything it made."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def key(self) -> Path:
        return self.folder / "ca.key"

    def server(self, name: str, *, names: Sequence[str] = (), addresses: Sequence[str] = ()) -> Pair:
        """For a server that is reached under these DNS names and IP addresses. Its files are called `name`."""
        alternatives = ",".join([f"DNS:{each}" for each in names] + [f"IP:{each}" for each in addresses])
        return self._issue(name, f"/CN={name}", ["extendedKeyUsage=serverAuth", f"subjectAltName={alternatives}"])

    def client(self, user: str, *, groups: Sequence[str] = ()) -> Pair:
        """For a user of the API server (or, as the API server itself, of a kubelet)."""
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        return self._issue(user.replace(":", "-"), subject, ["extendedKeyUsage=clientAuth"])

    def _issue(self, name: str, subject: str, extensions: Sequence[str]) -> Pair:
        pair = Pair(self.folder / f"{name}.crt", self.folder / f"{name}.key")
        extensions = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature", *extensions]
        signer = ["-CA", str(self.certificate), "-CAkey", str(self.key)]
        _openssl_req(pair, subject, extensions, signer)
        return pair


def new_authority(folder: Path) -> Authority:
    """Makes an authority in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    authority = Authority(folder)
    extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
    _openssl_req(Pair(authority.certificate, authority.key), "/CN=kubooth-bed", extensions)
    return authority


def signing_pair(folder: Path) -> tuple[Path, Path]:
    """Private and public key of ServiceAccount tokens."""
    private, public = folder / "service-accounts.key", folder / "service-accounts.pub"
    curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    _run(["openssl", "genpkey", *curve, "-out", str(private)])
    _run(["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)])
    return private, public


def _openssl_req(pair: Pair, subject: str, extensions: Sequence[str], signer: Sequence[str] = ()) -> None:
    command = ["openssl", "req", "-x509", *_KEY, *_DAYS, "-subj", subject]
    command += ["-keyout", str(pair.key), "-out", str(pair.certificate), *signer]
    for extension in extensions:
        command += ["-addext", extension]
    # The machine's own openssl.cnf would add extensions of its own.
    _run([*command, "-config", str(_configuration(pair.certificate.parent))])


def _configuration(folder: Path) -> Path:
    path = folder / "openssl.cnf"
    path.write_text("[req]\ndistinguished_name=subject\n[subject]\n")
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command[:3])} ended with {done.returncode} (OpenSSL 3 is needed):\n{done.stderr}"
        )
