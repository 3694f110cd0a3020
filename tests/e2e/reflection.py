"""Calls every method of a server with a client that has no generated code.

Everything it knows about the server it learns by reflection. Usage:

    reflection.py TARGET [SERVER_NAME CA_PEM CHAIN_PEM KEY_PEM]

Prints one JSON object: {service: {method: status code}}. Each method is called once with an empty
request. An answer of any kind is fine here; what the codes must be is the test's business.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pool, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

# A stream that answers nothing to an empty request is cut after this many seconds.
PATIENCE = 3


def connect(arguments):
    if len(arguments) == 1:
        return grpc.insecure_channel(arguments[0], options=[("grpc.default_authority", "localhost")])
    target, name, *files = arguments
    ca, chain, key = (open(path, "rb").read() for path in files)
    credentials = grpc.ssl_channel_credentials(ca, key, chain)
    return grpc.secure_channel(target, credentials, options=[("grpc.ssl_target_name_override", name)])


def call(channel, service, method):
    request = message_factory.GetMessageClass(method.input_type)
    answer = message_factory.GetMessageClass(method.output_type)
    kinds = {(False, False): "unary_unary", (False, True): "unary_stream", (True, False): "stream_unary", (True, True): "stream_stream"}
    kind = kinds[(method.client_streaming, method.server_streaming)]
    stub = getattr(channel, kind)(
        f"/{service}/{method.name}",
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )
    message = iter([request()]) if method.client_streaming else request()
    try:
        result = stub(message, timeout=PATIENCE)
        if method.server_streaming:
            for _ in result:
                result.cancel()
                break
        return "OK"
    except grpc.RpcError as error:
        return error.code().name


def main():
    channel = connect(sys.argv[1:])
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = descriptor_pool.DescriptorPool(database)
    found = {}
    for name in sorted(database.get_services()):
        service = pool.FindServiceByName(name)
        found[name] = {method.name: call(channel, name, method) for method in service.methods}
    print(json.dumps(found))


main()
