"""`python -m injector serve`, `python -m injector inject -f pod.yaml` and `python -m injector policy`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

from contract import logs, names, settings, values
from contract.arguments import EXIT_USAGE, OneLineParser, argument_type
from injector.admission.decision import Options

SERVE_PORT: Final = 8443
SERVICE: Final = "evenstream-injector"
SECRET: Final = "evenstream-injector-certificates"  # noqa: S105 - the name of an object
WEBHOOK_CONFIGURATION: Final = "evenstream-injector"
WEBHOOKS: Final = ("inject.evenstream.dev", "inject-restricted.evenstream.dev")
IMAGE_VARIABLE: Final = names.ENV_PREFIX + "SIDECAR_IMAGE"
DOMAIN_VARIABLE: Final = names.ENV_PREFIX + "CLUSTER_DOMAIN"
KIND_VARIABLE: Final = names.ENV_PREFIX + "SIDECAR_KIND"

# Another replica may have renewed the certificate, which has 30 days left then; and a webhook configuration that
# was applied anew lacks its CA, which no pod should notice for long.
REFRESH_SECONDS: Final = 60
MAX_REFRESH_SECONDS: Final = 3600

EXIT_FAILED: Final = 1

EPILOG: Final = """\
What the webhook would make of a manifest, without a cluster:

  python -m injector inject -f pod.yaml
  kubectl get deployment greeter-client -o yaml | python -m injector inject -f -

A pod asks with the annotation evenstream.dev/inject: "enabled". One that is left as it is, is told why on
standard error. Exit codes: 0 done; 1 serve could not start; 2 a flag, file or value is not allowed.
"""


class _Parser(OneLineParser):
    def error(self, message: str) -> NoReturn:
        super().error(f"{message}; see {self.prog} --help")


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m injector",
        description="Adds the Evenstream sidecar to pods that ask for it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    common = _Parser(add_help=False)
    common.add_argument(
        "--sidecar-image",
        type=argument_type(settings.BY_NAME["sidecar-image"].parse),
        # argparse parses a default that is text, so a bad variable is reported like a bad flag.
        default=environment.get(IMAGE_VARIABLE) or names.DEFAULT_SIDECAR_IMAGE,
        metavar="IMAGE",
        help=f"the sidecar's image where a pod names none (environment: {IMAGE_VARIABLE}; %(default)s)",
    )
    common.add_argument(
        "--cluster-domain",
        type=argument_type(values.domain),
        default=environment.get(DOMAIN_VARIABLE) or names.DEFAULT_CLUSTER_DOMAIN,
        metavar="DOMAIN",
        help=f"what Services' names end in (environment: {DOMAIN_VARIABLE}; %(default)s)",
    )
    common.add_argument(
        "--sidecar-kind",
        type=argument_type(values.one_of("auto", "native", "plain")),
        default=environment.get(KIND_VARIABLE) or "auto",
        metavar="KIND",
        help="auto: native, but plain where the API server is older than 1.29; native: an init container with "
        f"restartPolicy Always; plain: the first of the containers (environment: {KIND_VARIABLE}; %(default)s)",
    )
    inject = commands.add_parser(
        "inject", parents=[common], help="add the sidecar to manifests and print them"
    )
    inject.add_argument(
        "-f", "--filename", required=True, metavar="FILE", help="manifests; - is standard input"
    )
    inject.add_argument(
        "-n",
        "--namespace",
        type=argument_type(values.label),
        metavar="NAME",
        help="where manifests that name no namespace will be applied",
    )
    policy = commands.add_parser(
        "policy", parents=[common], help="print the policies that do the same inside the API server"
    )
    policy.add_argument(
        "--api-version",
        type=argument_type(values.one_of("v1beta1", "v1")),
        default="v1beta1",
        metavar="VERSION",
        help="of MutatingAdmissionPolicy: v1beta1 in Kubernetes 1.34 and 1.35, v1 from 1.36 (%(default)s)",
    )
    serve = commands.add_parser("serve", parents=[common], help="run the admission webhook in a cluster")
    add = serve.add_argument
    add(
        "--address",
        type=argument_type(values.ip),
        metavar="IP",
        help="listen on this IP address only (default: all of the pod's)",
    )
    add(
        "--port",
        type=argument_type(values.port),
        default=SERVE_PORT,
        help="listen on this port (%(default)s)",
    )
    add(
        "--namespace",
        type=argument_type(values.label),
        default=environment.get("POD_NAMESPACE") or names.SYSTEM_NAMESPACE,
        help="where the Service and the Secret are (environment: POD_NAMESPACE; %(default)s)",
    )
    add(
        "--service",
        type=argument_type(values.label),
        default=SERVICE,
        help="the Service in front (%(default)s)",
    )
    add("--dns-name", action="append", default=[], metavar="NAME", help="one more name in the certificate")
    add(
        "--certificates",
        type=argument_type(values.directory),
        metavar="DIR",
        help="take tls.crt, tls.key and ca.crt from here, as cert-manager makes them; no Secret is read or "
        "written and no CA put anywhere",
    )
    add("--secret", default=SECRET, help="the Secret that holds the certificates (%(default)s)")
    add(
        "--refresh-seconds",
        type=argument_type(values.seconds_up_to(MAX_REFRESH_SECONDS)),
        default=str(REFRESH_SECONDS),
        metavar="N",
        help="how often the Secret is read and the CA put in place (%(default)s)",
    )
    add(
        "--webhook-configuration",
        default=WEBHOOK_CONFIGURATION,
        metavar="NAME",
        help="the MutatingWebhookConfiguration that gets the CA (%(default)s)",
    )
    for name in ("log-level", "log-format"):
        setting = settings.BY_NAME[name]
        text = setting.help[:1].lower() + setting.help[1:].rstrip(".")
        add(
            setting.flag,
            type=argument_type(setting.parse),
            default=setting.default,
            metavar=setting.form,
            help=f"{text} (%(default)s)",
        )
    return parser


def _inject(given: argparse.Namespace, options: Options) -> int:
    from injector import manifest
    from injector.admission.workloads import BadManifestError

    name = "standard input" if given.filename == "-" else given.filename
    try:
        with (
            open(0, "rb", closefd=False) if given.filename == "-" else Path(given.filename).open("rb") as file
        ):
            data = file.read(manifest.MAX_BYTES + 1)
        text, warnings = manifest.inject_text(data, options, given.namespace or "")
    except OSError as error:
        return _fail(f"{name}: {error.strerror}", EXIT_USAGE)
    except BadManifestError as error:
        return _fail(f"{name}: {error}", EXIT_USAGE)
    for warning in warnings:
        print(f"{name}: {warning}", file=sys.stderr)
    sys.stdout.write(text)
    return 0


def _policy(given: argparse.Namespace, options: Options) -> int:
    from injector import manifest
    from injector.policy import objects

    if not options.native_sidecars:
        return _fail("policy: --sidecar-kind plain is not allowed; allowed: auto, native", EXIT_USAGE)
    sys.stdout.write(manifest.dump(objects.objects(options, given.api_version)))
    return 0


def _serve(given: argparse.Namespace, options: Options) -> int:
    # Here, not above: `inject` starts in a tenth of the time without kopf and cryptography.
    import kopf

    from injector import certs, cluster, server, webhook

    logs.configure(given.log_level, given.log_format)
    # kopf logs every review twice at info.
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLogger().level))
    settings_ = kopf.OperatorSettings()
    place = cluster.Place(given.namespace, given.secret, given.webhook_configuration, WEBHOOKS)
    api = cluster.Cluster(settings_, place)
    files = certs.Files(Path(given.certificates)) if given.certificates else None
    store = certs.Store(api, [f"{given.service}.{given.namespace}.svc", *given.dns_name])
    installation = webhook.Installation(options, given.sidecar_kind, api)
    listening = server.Server(
        given.address or "",
        given.port,
        files or store,
        files or api,
        refresh_seconds=given.refresh_seconds,
        also=installation.refresh,
    )
    webhook.configure(settings_, listening)
    # kopf would tell of either with a traceback, and of the first again every minute.
    try:
        cluster.login(settings_)
        listening.try_port()
    except kopf.LoginError as error:
        return _fail(f"serve: cannot log in to a cluster: {error}", EXIT_FAILED)
    except OSError as error:
        where = f"{given.address or 'all addresses'} port {given.port}"
        return _fail(f"serve: cannot listen on {where}: {error.strerror}", EXIT_FAILED)
    try:
        webhook.run(installation, settings_)
    except (kopf.LoginError, OSError) as error:
        return _fail(f"serve: {type(error).__name__}: {error}", EXIT_FAILED)
    return 0


def _fail(text: str, code: int) -> int:
    print(f"python -m injector: {text}", file=sys.stderr)
    return code


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    given = _parser(environment).parse_args(arguments)
    options = Options(
        sidecar_image=given.sidecar_image,
        version=names.VERSION,
        cluster_domain=given.cluster_domain,
        # Nobody to ask, by hand: native, as every supported Kubernetes has them.
        native_sidecars=given.sidecar_kind != "plain",
    )
    run = {"inject": _inject, "policy": _policy, "serve": _serve}[given.command]
    return run(given, options)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
