"""A Modbus server and client that nobody here wrote: pymodbus.

    peer.py tcp                      serves on a free port of 127.0.0.1
    peer.py rtu PATH                 serves on a serial port
    peer.py get PORT UNIT ADDRESS COUNT
                                     prints holding registers as a JSON list

A server prints one line of JSON when it serves: its port, or 0. Units 1 and 2 have the same registers.
"""

import asyncio
import json
import sys

from pymodbus.client import ModbusTcpClient
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

HOST = "127.0.0.1"


def unit(number):
    coils = [SimData(0, values=[at % 3 == 0 for at in range(64)], datatype=DataType.BITS)]
    discrete = [SimData(0, values=[at % 2 == 0 for at in range(32)], datatype=DataType.BITS)]
    holding = [
        SimData(0, values=list(range(500)), datatype=DataType.REGISTERS),
        # 500 to 599 are not there.
        SimData(600, values=21.3, datatype=DataType.FLOAT32),
        SimData(602, values=-70_000, datatype=DataType.INT32),
        SimData(604, values=0.1, datatype=DataType.FLOAT64),
        SimData(608, values=2**63 + 1, datatype=DataType.UINT64),
        SimData(612, values="skerry", datatype=DataType.STRING),
        SimData(615, values=[0b1010_0000, 0], datatype=DataType.REGISTERS),
    ]
    inputs = [SimData(0, values=[1000 * number + at for at in range(10)], datatype=DataType.REGISTERS)]
    return SimDevice(number, simdata=(coils, discrete, holding, inputs))


def deaf(sending, pdu):
    """A unit that is not there says nothing; pymodbus would answer for it."""
    return pdu if sending or pdu.dev_id in (1, 2) else None


async def serve(kind, *arguments):
    units = [unit(1), unit(2)]
    if kind == "tcp":
        server = ModbusTcpServer(units, address=(HOST, 0), trace_pdu=deaf)
    else:
        server = ModbusSerialServer(units, port=arguments[0], baudrate=115_200, trace_pdu=deaf)
    await server.serve_forever(background=True)
    port = server.transport.sockets[0].getsockname()[1] if kind == "tcp" else 0
    print(json.dumps({"port": port}), flush=True)
    await asyncio.Event().wait()


def get(port, unit, address, count):
    client = ModbusTcpClient(HOST, port=int(port))
    client.connect()
    answer = client.read_holding_registers(int(address), count=int(count), device_id=int(unit))
    print(json.dumps(answer.registers))


if sys.argv[1] == "get":
    get(*sys.argv[2:])
else:
    asyncio.run(serve(*sys.argv[1:]))
