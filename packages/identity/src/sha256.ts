import type { Sha256 } from '@bramble/protocol'
import { sha256 } from '@noble/hashes/sha2.js'
import { bytesToHex, utf8ToBytes } from '@noble/hashes/utils.js'

/** SHA-256 in lower-case hex, of bytes or of text in UTF-8, where there is no `node:crypto`. */
export const sha256Hex: Sha256 = (data) => bytesToHex(sha256(typeof data === 'string' ? utf8ToBytes(data) : data))
