export { type Downloaded, type DownloadOptions, downloadDirectory } from './download-directory.ts'
export { type Forwarding, forwardPort } from './forward-port.ts'
export { tunnelDuplex } from './tunnel-duplex.ts'
export { type UploadOptions, uploadDirectory } from './upload-directory.ts'
