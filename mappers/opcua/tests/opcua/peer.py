"""An OPC UA server that nobody here wrote: asyncua.

    peer.py FOLDER [PORT] [OPTION=VALUE ...]

    password=TEXT      users need this password, and anonymous ones are refused
    user=FILE          users need this certificate, and anonymous ones are refused
    secure=yes         no endpoint without security
    clients=FOLDER     clients need a certificate of this folder, as the specification wants it to be
    limit=NUMBER       nodes in a read, and items in a request

Serves on 127.0.0.1 with its certificate in FOLDER (server.der), made when it is not there, and prints its port as
a line of JSON. Then it does what lines of JSON on standard input say, and answers each with a line:

    {"get": NAME}                         the type and the value of a node
    {"set": NAME, "value": VALUE}         changes it
    {"add": NAME, "value": VALUE}         a node that was not there
    {"reload": true}                      reads the certificates of clients anew
    {"counts": true}                      nodes of each read and subscriptions since the last question, and
                                          users that were turned away so far
"""

import asyncio
import json
import socket
import sys
import uuid
from datetime import datetime, timezone
from pathlib import Path

from asyncua import Server, ua
from asyncua.common.callback import CallbackType
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.crypto.truststore import TrustStore
from asyncua.crypto.uacrypto import der_from_x509, load_certificate
from asyncua.crypto.validator import CertificateValidator, CertificateValidatorOptions
from cryptography.x509.oid import ExtendedKeyUsageOID

HOST = "127.0.0.1"
NAMESPACE = "http://skerry.test/plant"
SOURCE_TIME = datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=timezone.utc)
POLICIES = ["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"]

T = ua.VariantType
VALUES = [
    ("Boolean", True, T.Boolean),
    ("SByte", -128, T.SByte),
    ("Byte", 255, T.Byte),
    ("Int16", -32_768, T.Int16),
    ("UInt16", 65_535, T.UInt16),
    ("Int32", -70_000, T.Int32),
    ("UInt32", 4_000_000_000, T.UInt32),
    ("Int64", -(2**63), T.Int64),
    ("UInt64", 2**63 + 1, T.UInt64),
    ("Float", 21.3, T.Float),
    ("Double", 0.1, T.Double),
    ("String", "skerry", T.String),
    ("DateTime", SOURCE_TIME, T.DateTime),
    ("ByteString", b"\x00\xff", T.ByteString),
    ("LocalizedText", ua.LocalizedText("warm", "en"), T.LocalizedText),
    ("Guid", uuid.UUID("12345678-1234-5678-1234-567812345678"), T.Guid),
    ("Array", [1, 2, 3], T.Int32),
]


class Users:
    """Who may come in: with the password, or with the certificate, else anybody."""

    def __init__(self, password, certificate):
        self.password, self.certificate, self.refusals = password, certificate, 0

    def get_user(self, iserver, username=None, password=None, certificate=None):
        wrong = self.password is not None and (username, password) != ("operator", self.password)
        if wrong or (self.certificate is not None and certificate != self.certificate):
            self.refusals += 1
            return None
        return User(role=UserRole.User, name=username)


class Peer:
    def __init__(self, folder, port, options):
        self.folder, self.port, self.options = folder, port, options
        self.reads, self.subscriptions = [], 0

    async def start(self):
        options = self.options
        user = options.get("user")
        user = der_from_x509(await load_certificate(Path(user))) if user else None
        self.users = Users(options.get("password"), user)
        self.server = Server(user_manager=self.users)
        await self.server.init()
        key, certificate = self.folder / "server.pem", self.folder / "server.der"
        uri = "urn:skerry.test:peer"
        use = [ExtendedKeyUsageOID.SERVER_AUTH]
        names = {"commonName": "peer of skerry"}
        await setup_self_signed_certificate(key, certificate, uri, socket.gethostname(), use, names)
        await self.server.set_application_uri(uri)
        await self.server.load_certificate(certificate)
        await self.server.load_private_key(key)
        if "clients" in options:
            clients = Path(options["clients"])
            # asyncua wants one at least.
            (clients / "server.der").write_bytes(certificate.read_bytes())
            self.trusted = TrustStore([clients], [])
            await self.trusted.load()
            wanted = CertificateValidatorOptions.TRUSTED_VALIDATION | CertificateValidatorOptions.PEER_CLIENT
            self.server.set_certificate_validator(CertificateValidator(wanted, self.trusted).validate)
        kinds = [f"{policy}_{mode}" for policy in POLICIES for mode in ("Sign", "SignAndEncrypt")]
        kinds += [] if "secure" in options else ["NoSecurity"]
        self.server.set_security_policy([getattr(ua.SecurityPolicyType, kind) for kind in kinds])
        if "password" in options:
            self.server.set_identity_tokens([ua.UserNameIdentityToken])
        elif "user" in options:
            self.server.set_identity_tokens([ua.X509IdentityToken])
        # As it sees itself; clients know it by another name.
        self.server.set_endpoint(f"opc.tcp://{HOST}:{self.port}/skerry")
        self.index = await self.server.register_namespace(NAMESPACE)
        self.objects = self.server.get_objects_node()
        for name, value, kind in VALUES:
            await self.add(name, value, kind)
        read_only = await self.objects.add_variable(self.node("ReadOnly"), "ReadOnly", 7, T.Int32)
        await read_only.set_read_only()
        await self.status("Uncertain", ua.StatusCodes.UncertainLastUsableValue)
        await self.status("Bad", ua.StatusCodes.BadSensorFailure)
        if "limit" in options:
            for limit in ("MaxNodesPerRead", "MaxMonitoredItemsPerCall"):
                name = f"Server_ServerCapabilities_OperationLimits_{limit}"
                node = self.server.get_node(ua.NodeId(getattr(ua.ObjectIds, name)))
                await node.write_value(ua.Variant(int(options["limit"]), T.UInt32))
        self.server.subscribe_server_callback(CallbackType.PreRead, self.on_read)
        self.server.subscribe_server_callback(CallbackType.ItemSubscriptionCreated, self.on_subscribed)
        await self.server.start()
        return self.server.bserver._server.sockets[0].getsockname()[1]

    def node(self, name):
        return ua.NodeId(name, self.index)

    async def add(self, name, value, kind):
        node = await self.objects.add_variable(self.node(name), name, value, kind)
        await node.set_writable()

    async def status(self, name, code):
        await self.add(name, 7, T.Int32)
        value = ua.DataValue(ua.Variant(7, T.Int32), StatusCode=ua.StatusCode(code), SourceTimestamp=SOURCE_TIME)
        await self.server.write_attribute_value(self.node(name), value)

    def on_read(self, event, dispatcher):
        if event.is_external:
            self.reads.append(len(event.request_params.NodesToRead))

    def on_subscribed(self, event, dispatcher):
        self.subscriptions += 1

    async def obey(self, order):
        if "get" in order:
            value = await self.server.get_node(self.node(order["get"])).read_data_value()
            shown = value.Value.Value
            return {"type": value.Value.VariantType.name, "value": shown if isinstance(shown, (bool, int, float)) else str(shown)}
        if "set" in order:
            node = self.server.get_node(self.node(order["set"]))
            kind = (await node.read_data_value()).Value.VariantType
            await node.write_value(ua.Variant(order["value"], kind))
            return {}
        if "add" in order:
            await self.add(order["add"], order["value"], T.Int32)
            return {}
        if "reload" in order:
            await self.trusted.load()
            return {}
        counts = {"reads": self.reads, "subscriptions": self.subscriptions, "refusals": self.users.refusals}
        self.reads, self.subscriptions = [], 0
        return counts


async def main(folder, *arguments):
    port = int(arguments[0]) if arguments and arguments[0].isdigit() else 0
    options = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    peer = Peer(Path(folder), port, options)
    print(json.dumps({"port": await peer.start()}), flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        print(json.dumps(await peer.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
