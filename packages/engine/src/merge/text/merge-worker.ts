import { parentPort } from 'node:worker_threads'
import { type LineMergeRequest, mergeTexts } from './line-merger.ts'

parentPort?.on('message', (request: LineMergeRequest) => parentPort?.postMessage(mergeTexts(request)))
