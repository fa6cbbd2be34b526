// An encrypted attachment in clear, as the specification has it (AES-CTR, SHA-256 of the cipher).
import { webcrypto } from "node:crypto";

export async function decryptAttachment(bytes, file) {
  const digest = Buffer.from(await webcrypto.subtle.digest("SHA-256", bytes));
  if (digest.toString("base64").replace(/=+$/, "") !== file.hashes.sha256) {
    throw new Error("the attachment is not the one that was sent");
  }
  const key = await webcrypto.subtle.importKey("jwk", file.key, { name: "AES-CTR" }, false, ["decrypt"]);
  const counter = Buffer.from(file.iv, "base64");
  return new Uint8Array(await webcrypto.subtle.decrypt({ name: "AES-CTR", counter, length: 64 }, key, bytes));
}
