export { blobKeyOf, damageObject } from './damage-object.ts'
export { type Fault, type FaultProxy, openFaultProxy, type ProxiedRequest } from './fault-proxy.ts'
export { openS3Server, S3_CREDENTIALS, type S3Server } from './s3-server.ts'
