/**
 * Arrays in PostgreSQL's binary form (`array_send`, src/backend/utils/adt/arrayfuncs.c): nothing in them is escaped, here or
 * there. `pg` sends a `Buffer` as a binary parameter.
 */
const TEXT_OID = 25
const INT8_OID = 20
const HEADER_BYTES = 20

const header = (buffer: Buffer, oid: number, length: number): void => {
  buffer.writeInt32BE(1, 0)
  // That there may be nulls is found out by whoever reads it.
  buffer.writeInt32BE(1, 4)
  buffer.writeInt32BE(oid, 8)
  buffer.writeInt32BE(length, 12)
  buffer.writeInt32BE(1, 16)
}

/** `text[]`. */
export const textArray = (values: readonly (string | null)[]): Buffer => {
  let bytes = HEADER_BYTES
  for (const value of values) bytes += 4 + (value === null ? 0 : Buffer.byteLength(value))
  const buffer = Buffer.allocUnsafe(bytes)
  header(buffer, TEXT_OID, values.length)
  let at = HEADER_BYTES
  for (const value of values) {
    const length = value === null ? -1 : buffer.write(value, at + 4)
    buffer.writeInt32BE(length, at)
    at += 4 + Math.max(0, length)
  }
  return buffer
}

/** `bigint[]`, of whole numbers. */
export const int8Array = (values: readonly (number | null)[]): Buffer => {
  const present = values.reduce<number>((count, value) => (value === null ? count : count + 1), 0)
  const buffer = Buffer.allocUnsafe(HEADER_BYTES + 4 * values.length + 8 * present)
  header(buffer, INT8_OID, values.length)
  let at = HEADER_BYTES
  for (const value of values) {
    buffer.writeInt32BE(value === null ? -1 : 8, at)
    at += 4
    if (value === null) continue
    buffer.writeBigInt64BE(BigInt(value), at)
    at += 8
  }
  return buffer
}
