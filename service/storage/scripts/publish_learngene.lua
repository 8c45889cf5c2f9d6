-- Record the file of a learngene whose object is stored.
-- KEYS[1]  hash        the digest of each published name's current file
-- KEYS[2]  hash        the record of the file of each digest, current or superseded
-- KEYS[3]  string      changes with every change of the two
-- KEYS[4]  sorted set  object keys by the second from which on they may be deleted
-- ARGV[1]  the name
-- ARGV[2]  the digest
-- ARGV[3]  the file's sha256
-- ARGV[4]  the record, JSON: also has object_key, size_bytes
-- ARGV[5]  '1' if it may take the place of other weights of that name
-- ARGV[6]  '1' if it is to be recorded though the same file is recorded: that one's object is gone
-- ARGV[7]  bytes that all current files may have
-- ARGV[8]  seconds that a replaced file of the same weights stays, for those who are about to read it
-- ARGV[9]  the version after the change; there was never another like it
-- Returns  {'added' | 'replaced' | 'same', the record that stands}, {'name_taken', its digest}, {'digest_taken', its name},
--          {'full', the bytes of the others}, or {'late'} if the object is no longer this publication's.
-- Invariant: each name's digest has a record; a digest is current under one name at most; an object is named by one record, or
-- stands in KEYS[4], or is on its way to its end.
local names, files, version, ending = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, digest, sha256, record = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function fields_of(text)
  local read, fields = pcall(cjson.decode, text or '')
  return read and type(fields) == 'table' and fields or {}
end

local current = redis.call('HGET', names, name)
local known = redis.call('HGET', files, digest)
local before = fields_of(known)
if current ~= digest and known and type(before.name) == 'string' and before.name ~= name
    and redis.call('HGET', names, before.name) == digest then
  return {'digest_taken', before.name}
end
if current == digest and before.sha256 == sha256 and ARGV[6] ~= '1' then
  return {'same', known}
end
if current and current ~= digest and ARGV[5] ~= '1' then
  return {'name_taken', current}
end
local others = 0
local listed = redis.call('HGETALL', names)
for index = 1, #listed, 2 do
  if listed[index] ~= name then
    others = others + (tonumber(fields_of(redis.call('HGET', files, listed[index + 1])).size_bytes) or 0)
  end
end
local own = fields_of(record)
if others + own.size_bytes > tonumber(ARGV[7]) then
  return {'full', tostring(others)}
end
if redis.call('ZREM', ending, own.object_key) == 0 then
  return {'late'}
end
if type(before.object_key) == 'string' and before.object_key ~= own.object_key then
  redis.call('ZADD', ending, redis.call('TIME')[1] + ARGV[8], before.object_key)
end
redis.call('HSET', files, digest, record)
redis.call('HSET', names, name, digest)
redis.call('SET', version, ARGV[9])
return {current and 'replaced' or 'added', record}
