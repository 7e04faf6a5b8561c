// The Vercel AI SDK, with its providers for OpenAI's and Anthropic's APIs. Prints what it found as JSON.
import { createAnthropic } from '@ai-sdk/anthropic'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { APICallError, embedMany, generateText, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'

globalThis.AI_SDK_LOG_WARNINGS = false // of models that it does not know
const { URL: url, SMALL, CALLER, THINKER, VECTORS } = process.env
const options = { baseURL: `${url}/v1`, apiKey: 'any' }
const compatible = createOpenAICompatible({ name: 'magid', includeUsage: true, ...options })
const anthropic = createAnthropic(options)

async function streamed(model) {
  const answer = streamText({ model, prompt: 'Hello', maxOutputTokens: 4 })
  let text = ''
  for await (const part of answer.textStream) text += part
  return [text, (await answer.usage).outputTokens, await answer.finishReason]
}

// The tiny model calls the tool in every step.
async function calls(model) {
  const seen = []
  const execute = ({ a }) => (seen.push(a), 'seen')
  const look = tool({ inputSchema: z.object({ a: z.string() }), execute })
  const stopWhen = stepCountIs(2)
  await generateText({ model, prompt: 'Hello', tools: { look }, stopWhen })
  await streamText({ model, prompt: 'Hello', tools: { look }, stopWhen }).consumeStream()
  return seen
}

async function turns(model) {
  const messages = [{ role: 'user', content: 'Hello' }]
  const first = await generateText({ model, messages })
  messages.push(...first.response.messages, { role: 'user', content: 'And now?' })
  return [first.text, (await generateText({ model, messages })).text]
}

async function error(model) {
  try {
    await generateText({ model, prompt: 'Hello', maxRetries: 0 })
  } catch (refusal) {
    return APICallError.isInstance(refusal) && [refusal.statusCode, refusal.message]
  }
}

async function found(provider) {
  return {
    streamed: await streamed(provider(SMALL)),
    calls: await calls(provider(CALLER)),
    turns: await turns(provider(SMALL)),
    thoughts: await turns(provider(THINKER)),
    error: await error(provider('gone')),
  }
}

const model = compatible.embeddingModel(VECTORS)
const { embeddings } = await embedMany({ model, values: ['a', 'b'] })
const vectors = embeddings.map((vector) => vector.length)
const answers = { compatible: await found(compatible), anthropic: await found(anthropic), vectors }
console.log(JSON.stringify(answers))
