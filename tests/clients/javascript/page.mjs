// The SDKs of OpenAI and Anthropic in a page of another origin, behind the program of
// docs/clients.md that makes `ai` and `claude`. Posts what it found to the page's own server.
const message = { role: 'user', content: 'Hello' }
const { small, caller } = Object.fromEntries(new URLSearchParams(location.search))
const look = { type: 'object', properties: { a: { type: 'string' } }, required: ['a'] }

async function chat() {
  const stream = await ai.chat.completions.create({
    model: small, messages: [message], max_tokens: 4, stream: true,
  })
  let text = ''
  for await (const part of stream) text += part.choices[0]?.delta.content ?? ''
  return text
}

async function calls() {
  const tools = [{ type: 'function', function: { name: 'look', parameters: look } }]
  const answer = await ai.chat.completions.create({ model: caller, messages: [message], tools })
  return answer.choices[0].message.tool_calls.map((call) => call.function.arguments)
}

async function responses() {
  const first = await ai.responses.create({ model: small, input: 'Hello' })
  const input = [message, ...first.output, { role: 'user', content: 'And now?' }]
  return (await ai.responses.create({ model: small, input })).output_text
}

async function messages() {
  const stream = claude.beta.messages.stream({
    model: small, messages: [message], max_tokens: 4, betas: ['token-counting-2024-11-01'],
  })
  return (await stream.finalMessage()).content[0].text
}

async function uses() {
  const tools = [{ name: 'look', input_schema: look }]
  const answer = await claude.messages.create({
    model: caller, messages: [message], tools, max_tokens: 100,
  })
  return answer.content.map((part) => part.input)
}

async function errors() {
  const asked = { model: 'gone', messages: [message], max_tokens: 4 }
  const refusals = await Promise.allSettled([
    ai.chat.completions.create(asked), claude.messages.create(asked),
  ])
  return refusals.map(({ reason }, number) => {
    const isMissing = reason instanceof [OpenAI, Anthropic][number].NotFoundError
    return [isMissing, reason.status, reason.requestID !== null]
  })
}

async function listed() {
  const names = []
  for await (const model of ai.models.list()) names.push(model.id)
  return names.includes(small)
}

const found = {}
for (const what of [chat, calls, responses, messages, uses, errors, listed]) {
  found[what.name] = await what().catch((error) => `${error}`)
}
await fetch('/', { method: 'POST', body: JSON.stringify(found) })
