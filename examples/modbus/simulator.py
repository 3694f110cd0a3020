"""A boiler that speaks Modbus, made with pymodbus: what examples/modbus is about.

    simulator.py [--host 127.0.0.1] [--port 5020]      Modbus TCP
    simulator.py --serial /dev/ttyS0                    Modbus RTU, 9600 baud, 8N1

Unit 1:

    holding register  0       temperature, tenths of a degree, follows the setpoint while the heater is on
    holding register  1       setpoint, tenths of a degree, 0 to 900
    holding register  2       status: bit 0 heating, bit 1 setpoint reached, bits 8 to 11 level of the burner
    holding registers 10-17   serial number, text
    input registers   0-1     energy used, kWh, float32
    input registers   2-3     seconds since the start, uint32
    coil              0       heater
    discrete input    0       water is there
"""

import argparse
import asyncio
import struct
import time

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusSerialServer, ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

UNIT = 1
STEP = 0.2
HIGHEST = 900
READ_COILS, READ_HOLDING, READ_INPUT = 1, 3, 4
WRITES = (6, 16)


async def guard(function, start, address, count, registers, values):
    """Refuses setpoints that no boiler could hold."""
    if function in WRITES and values:
        for at, value in enumerate(values, address):
            if at == 1 and value > HIGHEST:
                return ExcCodes.ILLEGAL_VALUE
    return None


def boiler():
    coils = [SimData(0, values=True, datatype=DataType.BITS)]
    discrete = [SimData(0, values=True, datatype=DataType.BITS)]
    holding = [
        SimData(0, values=[200, 400, 0x0F01], datatype=DataType.REGISTERS),
        SimData(10, values="SKERRY-BOILER-01", datatype=DataType.STRING),
    ]
    inputs = [SimData(0, values=[0, 0, 0, 0], datatype=DataType.REGISTERS)]
    return SimDevice(UNIT, simdata=(coils, discrete, holding, inputs), action=guard)


async def live(context):
    """The boiler's physics, five times a second."""
    begun, energy, temperature = time.monotonic(), 0.0, 200.0
    while True:
        await asyncio.sleep(STEP)
        heater = (await context.async_getValues(UNIT, READ_COILS, 0, 1))[0]
        setpoint = (await context.async_getValues(UNIT, READ_HOLDING, 1, 1))[0]
        target = setpoint if heater else 200
        temperature += max(-20.0, min(20.0, target - temperature)) * STEP
        level = min(15, int(abs(target - temperature) / 10)) if heater and target > temperature else 0
        energy += level * STEP / 3600
        reached = abs(setpoint - temperature) < 5
        status = int(level > 0) | int(reached) << 1 | level << 8
        await context.async_setValues(UNIT, READ_HOLDING, 0, [round(temperature)])
        await context.async_setValues(UNIT, READ_HOLDING, 2, [status])
        counted = struct.pack(">fI", energy, int(time.monotonic() - begun))
        await context.async_setValues(UNIT, READ_INPUT, 0, list(struct.unpack(">4H", counted)))


async def main():
    parser = argparse.ArgumentParser(description="A boiler that speaks Modbus")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5020)
    parser.add_argument("--serial", help="serve Modbus RTU on this serial port instead")
    args = parser.parse_args()
    if args.serial:
        server = ModbusSerialServer(boiler(), port=args.serial, baudrate=9600)
    else:
        server = ModbusTcpServer(boiler(), address=(args.host, args.port))
    await server.serve_forever(background=True)
    # Port 0 takes a free one.
    place = args.serial or "{}:{}".format(*server.transport.sockets[0].getsockname())
    print("the boiler is on", place, flush=True)
    await live(server.context)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
