"""Keys and certificates, by the openssl command. They live as long as one cluster does."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import shell

DAYS = "365"  # a throwaway cluster is gone long before

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters:
- name: {name}
  cluster: {{server: "{server}", certificate-authority: "{folder}/ca.crt"}}
users:
- name: {user}
  user: {{client-certificate: "{folder}/{user}.crt", client-key: "{folder}/{user}.key"}}
contexts:
- name: {name}
  context: {{cluster: {name}, user: {user}}}
current-context: {name}
"""


@dataclass(frozen=True)
class Authority:
    """A certificate authority, and the folder that all its certificates lie in."""

    folder: Path

    def create(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.key("ca")
        shell.run([
            "openssl", "req", "-x509", "-new", "-key", self.folder / "ca.key", "-out", self.folder / "ca.crt",
            "-days", DAYS, "-subj", "/CN=evenstream-local",
            "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
        ])  # fmt: skip

    def key(self, name: str) -> Path:
        path = self.folder / f"{name}.key"
        shell.write(path, "", 0o600)  # so that the key is never readable by others, not even briefly
        shell.run(["openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", path])
        return path

    def issue(self, name: str, user: str, group: str = "", addresses: tuple[str, ...] = ()) -> None:
        """A certificate for `user` of `group`; with addresses, for a server that answers there."""
        self.key(name)
        subject = (f"/O={group}" if group else "") + f"/CN={user}"
        usage = "extendedKeyUsage=clientAuth,serverAuth\nkeyUsage=critical,digitalSignature\n"
        if addresses:
            usage += "subjectAltName=" + ",".join(addresses) + "\n"
        request = self.folder / f"{name}.csr"
        shell.run(
            ["openssl", "req", "-new", "-key", self.folder / f"{name}.key", "-subj", subject, "-out", request]
        )
        with tempfile.NamedTemporaryFile("w", dir=self.folder, suffix=".ext") as extensions:
            extensions.write(usage)
            extensions.flush()
            shell.run([
                "openssl", "x509", "-req", "-in", request, "-out", self.folder / f"{name}.crt", "-days", DAYS,
                "-CA", self.folder / "ca.crt", "-CAkey", self.folder / "ca.key", "-CAcreateserial",
                "-extfile", extensions.name,
            ])  # fmt: skip
        request.unlink()

    def kubeconfig(self, path: Path, *, name: str, server: str, user: str) -> Path:
        text = KUBECONFIG.format(name=name, server=server, folder=self.folder, user=user)
        shell.write(path, text, 0o600)
        return path
