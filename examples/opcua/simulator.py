"""A boiler that speaks OPC UA, made with asyncua: what examples/opcua is about.

    simulator.py [--host 127.0.0.1] [--port 4840] [--folder FOLDER] [--password TEXT]

Namespace http://skerry.dev/boiler, ns=2:

    s=Boiler.Temperature    Double, follows the setpoint while the heater is on
    s=Boiler.Setpoint       Double, 0 to 90, writable
    s=Boiler.Heater         Boolean, writable
    s=Boiler.Level          Byte, level of the burner, 0 to 15
    s=Boiler.Energy         Double, kWh
    s=Boiler.SerialNumber   String

With a folder it keeps its certificate there (server.der) and has endpoints with security; with a password it takes
the user `operator` only.
"""

import argparse
import asyncio
import socket
from pathlib import Path

from asyncua import Server, ua
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from asyncua.crypto.permission_rules import User, UserRole
from cryptography.x509.oid import ExtendedKeyUsageOID

STEP = 0.2
HIGHEST = 90.0
URI = "urn:skerry.dev:boiler"


class Operator:
    """One user, if there is a password."""

    def __init__(self, password):
        self.password = password

    def get_user(self, iserver, username=None, password=None, certificate=None):
        if self.password is not None and (username, password) != ("operator", self.password):
            return None
        return User(role=UserRole.User, name=username)


async def boiler(args):
    server = Server(user_manager=Operator(args.password))
    await server.init()
    await server.set_application_uri(URI)
    policies = [ua.SecurityPolicyType.NoSecurity]
    if args.folder:
        key, certificate = args.folder / "server.pem", args.folder / "server.der"
        use = [ExtendedKeyUsageOID.SERVER_AUTH]
        await setup_self_signed_certificate(key, certificate, URI, socket.gethostname(), use, {"commonName": "boiler"})
        await server.load_certificate(certificate)
        await server.load_private_key(key)
        policies.append(ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt)
    if args.password:
        server.set_identity_tokens([ua.UserNameIdentityToken])
    server.set_security_policy(policies)
    server.set_endpoint(f"opc.tcp://{args.host}:{args.port}")
    index = await server.register_namespace("http://skerry.dev/boiler")
    folder = await server.get_objects_node().add_object(ua.NodeId("Boiler", index), "Boiler")

    async def variable(name, value, kind, writable=False):
        node = await folder.add_variable(ua.NodeId(f"Boiler.{name}", index), name, value, kind)
        if writable:
            await node.set_writable()
        return node

    kinds = ua.VariantType
    nodes = {
        "temperature": await variable("Temperature", 20.0, kinds.Double),
        "setpoint": await variable("Setpoint", 40.0, kinds.Double, writable=True),
        "heater": await variable("Heater", True, kinds.Boolean, writable=True),
        "level": await variable("Level", 0, kinds.Byte),
        "energy": await variable("Energy", 0.0, kinds.Double),
    }
    await variable("SerialNumber", "SKERRY-BOILER-02", kinds.String)
    return server, nodes


async def live(nodes):
    """The boiler's physics, five times a second."""
    energy, temperature = 0.0, 20.0
    while True:
        await asyncio.sleep(STEP)
        heater, setpoint = await nodes["heater"].read_value(), await nodes["setpoint"].read_value()
        target = min(setpoint, HIGHEST) if heater else 20.0
        temperature += max(-2.0, min(2.0, target - temperature)) * STEP
        level = min(15, int(abs(target - temperature))) if heater and target > temperature else 0
        energy += level * STEP / 3600
        await nodes["temperature"].write_value(round(temperature, 1))
        await nodes["level"].write_value(ua.Variant(level, ua.VariantType.Byte))
        await nodes["energy"].write_value(energy)


async def main():
    parser = argparse.ArgumentParser(description="A boiler that speaks OPC UA")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4840)
    parser.add_argument("--folder", type=Path, help="keep a certificate here, and offer security")
    parser.add_argument("--password", help="of the user operator")
    args = parser.parse_args()
    server, nodes = await boiler(args)
    async with server:
        # Port 0 takes a free one.
        port = server.bserver._server.sockets[0].getsockname()[1]
        print(f"the boiler is on opc.tcp://{args.host}:{port}", flush=True)
        await live(nodes)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
